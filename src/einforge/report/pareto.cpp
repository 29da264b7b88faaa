#include "einforge/report/pareto.h"

#include <algorithm>
#include <cmath>

#include "einforge/base/text.h"
#include "einforge/report/json.h"

namespace einforge::report {
namespace {

std::vector<std::string> objectives_of(const base::Json& metadata) {
  const auto search = metadata.find("search");
  const std::string text =
      search == metadata.end() ? "" : text_at(*search, "objective");
  std::vector<std::string> result;
  for (const std::string& name :
       base::split(text.empty() ? "flops" : text, ',')) {
    result.push_back(base::trim(name));
  }
  return result;
}

// No cost of `a` is above that of `b`, rounding left out.
bool within(const std::vector<double>& a, const std::vector<double>& b) {
  constexpr double kRounding = 1e-9;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (a[i] > b[i] * (1 + kRounding)) {
      return false;
    }
  }
  return true;
}

}  // namespace

double cost_of(
    const TrialRecord& record,
    const base::Json& metadata,
    const std::string& objective) {
  if (objective == "flops" || objective == "seconds") {
    const double spent =
        objective == "flops" ? record.trial.flops : record.trial.seconds;
    return spent > 0 && record.tokens > 0 ? spent / record.tokens : NAN;
  }
  const auto costs = metadata.find("costs");
  if (costs == metadata.end() || !costs->is_object()) {
    return NAN;
  }
  const auto own = costs->find(record.kind);
  if (own == costs->end() || !own->is_object() || !own->contains(objective)) {
    return NAN;
  }
  const base::Json& value = own->at(objective);
  return value.is_number() ? value.get<double>() : NAN;
}

ParetoSet pareto_set(
    const std::vector<TrialRecord>& trials, const base::Json& metadata) {
  ParetoSet result;
  result.objectives = objectives_of(metadata);
  std::vector<std::size_t> ended;
  for (std::size_t i = 0; i < trials.size(); ++i) {
    std::vector<double>& costs = result.costs.emplace_back();
    for (const std::string& objective : result.objectives) {
      costs.push_back(cost_of(trials[i], metadata, objective));
    }
    const store::Trial& trial = trials[i].trial;
    const bool known = std::ranges::none_of(
        costs, [](double cost) { return std::isnan(cost); });
    if (trial.status == store::Status::kDone && known &&
        std::isfinite(trial.final_loss)) {
      ended.push_back(i);
    }
  }
  const auto loss = [&](std::size_t i) { return trials[i].trial.final_loss; };
  std::ranges::stable_sort(ended, [&](std::size_t a, std::size_t b) {
    return loss(a) != loss(b) ? loss(a) < loss(b)
                              : result.costs[a] < result.costs[b];
  });
  // One that has no more loss comes before, and where it costs no more either
  // it beats all that comes after.
  for (const std::size_t i : ended) {
    if (std::ranges::none_of(result.trials, [&](std::size_t better) {
          return within(result.costs[better], result.costs[i]);
        })) {
      result.trials.push_back(i);
    }
  }
  std::ranges::reverse(result.trials);
  return result;
}

}  // namespace einforge::report
