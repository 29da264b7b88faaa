#include "einforge/search/config.h"

#include <fmt/ranges.h>

#include <cmath>

#include "einforge/base/error.h"
#include "einforge/base/text.h"
#include "einforge/search/objective.h"
#include "einforge/store/location.h"

namespace einforge::search {
namespace {

void check_choice(
    const char* key,
    const std::string& value,
    const std::vector<std::string>& choices) {
  for (const std::string& choice : choices) {
    if (value == choice) {
      return;
    }
  }
  throw base::InvalidInput(fmt::format(
      "{}: expected one of {}; got '{}'{}",
      key,
      fmt::join(choices, ", "),
      value,
      base::suggestion(value, choices)));
}

}  // namespace

void SearchConfig::validate() const {
  base::check(
      store.empty() || store::is_database_uri(store),
      "store: expected postgresql://HOST/DATABASE, or nothing for a file in "
      "'out'; got '{}'",
      store);
  base::check_ranges(*this);
  base::check(!out.empty(), "out: expected a folder; got ''");
  // Workers read it from a JSON file, which holds UTF-8 alone.
  base::check(
      base::is_utf8(train.data.path),
      "train.data.path: expected UTF-8; got '{}'",
      base::printable(train.data.path));
  base::check(
      !structures.empty(), "structures: expected at least one; got none");
  base::check(!seeds.empty(), "seeds: expected at least one; got none");
  for (const double rate : learning_rates) {
    base::check(
        rate > 0 && std::isfinite(rate),
        "learning_rates: expected positive numbers; got {}",
        rate);
  }
  int budgets = 0;
  for (const double amount :
       {budget.tokens, budget.tokens_per_parameter, budget.flops}) {
    base::check(
        amount >= 0 && std::isfinite(amount),
        "budget: expected positive numbers; got {}",
        amount);
    budgets += amount > 0 ? 1 : 0;
  }
  base::check(
      budgets == 1,
      "budget: expected exactly one of tokens, tokens_per_parameter and flops "
      "to be positive; got {}",
      budgets);
  check_choice(
      "scheduler.kind",
      scheduler.kind,
      {"grid", "random", "halving", "asha", "model"});
  const Cost first = parse_objective(objective).front();
  base::check(
      confirm.top == 0 || first == Cost::kFlops || first == Cost::kSeconds,
      "confirm.top: expected an objective of which flops or seconds is the "
      "first; got '{}'",
      objective);
  for (const std::string& constraint : constraints) {
    parse_constraint(constraint);
  }
  base::check(
      scheduler.kind != "model" || scheduler.within == "all",
      "scheduler.within: expected all with scheduler.kind model; got '{}'",
      scheduler.within);
  base::check(
      scheduler.stop_gain >= 0 && std::isfinite(scheduler.stop_gain),
      "scheduler.stop_gain: expected a number of at least 0; got {}",
      scheduler.stop_gain);
  base::check(
      train.data.batch_size % processes_per_trial == 0,
      "processes_per_trial: expected a divisor of train.data.batch_size, {}; "
      "got {}",
      train.data.batch_size,
      processes_per_trial);
  const auto groups = static_cast<std::int64_t>(devices.size());
  base::check(
      groups % processes_per_trial == 0,
      "devices: expected a multiple of the {} processes per trial; got {}",
      processes_per_trial,
      groups);
  base::check(
      processes_per_trial == 1 || groups > 0 ||
          !train.device.starts_with("cuda:"),
      "processes_per_trial: expected train.device cuda, of which each process "
      "takes a GPU, or devices; got '{}'",
      train.device);
  base::check(
      processes_per_trial == 1 || objective != "seconds",
      "processes_per_trial: expected 1 with objective seconds, which are "
      "measured on one; got {}",
      processes_per_trial);
  check_choice(
      "scheduler.within",
      scheduler.within,
      {"all", "model", "structure", "both"});
  base::check(
      warmup_share >= 0 && warmup_share < 1,
      "warmup_share: expected a number from 0 to less than 1; got {}",
      warmup_share);
}

std::int64_t rung_count(const SchedulerConfig& config) {
  return config.kind == "halving" || is_asynchronous(config) ? config.rungs : 1;
}

bool is_asynchronous(const SchedulerConfig& config) {
  return config.kind == "asha" || config.kind == "model";
}

}  // namespace einforge::search
