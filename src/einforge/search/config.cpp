#include "einforge/search/config.h"

#include <fmt/ranges.h>

#include <cmath>

#include "einforge/base/error.h"
#include "einforge/base/text.h"

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

void check_at_least(const char* key, std::int64_t value, std::int64_t least) {
  base::check(
      value >= least,
      "{}: expected a whole number of at least {}; got {}",
      key,
      least,
      value);
}

}  // namespace

void SearchConfig::validate() const {
  base::check(!out.empty(), "out: expected a folder; got ''");
  base::check(
      !structures.empty(), "structures: expected at least one; got none");
  base::check(!seeds.empty(), "seeds: expected at least one; got none");
  for (const std::int64_t width : widths) {
    check_at_least("widths", width, 1);
  }
  for (const std::int64_t count : layers) {
    check_at_least("layers", count, 1);
  }
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
  check_choice("scheduler.kind", scheduler.kind, {"grid", "random", "halving"});
  check_choice(
      "scheduler.within",
      scheduler.within,
      {"all", "model", "structure", "both"});
  check_at_least("scheduler.trials", scheduler.trials, 1);
  check_at_least("scheduler.eta", scheduler.eta, 2);
  check_at_least("scheduler.rungs", scheduler.rungs, 1);
  base::check(
      scheduler.rungs <= 20,
      "scheduler.rungs: expected at most 20; got {}",
      scheduler.rungs);
  check_at_least("curve_points", curve_points, 1);
  base::check(
      warmup_share >= 0 && warmup_share < 1,
      "warmup_share: expected a number from 0 to less than 1; got {}",
      warmup_share);
  check_at_least("workers", workers, 1);
  base::check(workers <= 256, "workers: expected at most 256; got {}", workers);
  check_at_least("attempts", attempts, 1);
  check_at_least("bootstrap", bootstrap, 0);
  base::check(
      bootstrap <= 1'000'000,
      "bootstrap: expected at most 1000000; got {}",
      bootstrap);
}

std::int64_t rung_count(const SchedulerConfig& config) {
  return config.kind == "halving" ? config.rungs : 1;
}

}  // namespace einforge::search
