#include "einforge/scaling/evaluation.h"

#include <map>
#include <utility>

namespace einforge::scaling {

Grouped group(std::span<const Run> runs, Metric metric) {
  Grouped grouped;
  std::map<std::string, std::size_t> index;
  std::map<std::string, std::size_t> diverged;
  std::vector<std::vector<Curve>> curves;
  for (const Run& run : runs) {
    if (has_diverged(run)) {
      ++diverged[run.structure];
      continue;
    }
    Curve curve = log_curve(run, metric);
    if (curve.x.empty()) {
      continue;
    }
    const auto [found, is_new] =
        index.try_emplace(run.structure, curves.size());
    if (is_new) {
      grouped.names.push_back(run.structure);
      grouped.runs.emplace_back();
      curves.emplace_back();
    }
    curves[found->second].push_back(std::move(curve));
    grouped.runs[found->second].push_back(&run);
  }
  for (std::size_t f = 0; f < curves.size(); ++f) {
    grouped.diverged.push_back(diverged[grouped.names[f]]);
    grouped.sparse.push_back(is_sparse(curves[f]) ? 1 : 0);
    grouped.families.emplace_back(std::move(curves[f]));
  }
  return grouped;
}

Shifts zero_shifts(std::span<const Family> families) {
  Shifts shifts;
  for (const Family& family : families) {
    shifts.emplace_back(family.curves.size(), 0.0);
  }
  return shifts;
}

Outcome compare(
    std::span<const Family> families,
    const Shifts& shifts,
    std::optional<std::size_t> baseline) {
  Outcome outcome;
  for (std::size_t f = 0; f < families.size(); ++f) {
    outcome.frontiers.push_back(families[f].cloud.frontier(shifts[f]));
    outcome.checks.push_back(
        check_frontier(outcome.frontiers[f], shifts[f].size()));
  }
  for (std::size_t f = 0; f < families.size(); ++f) {
    outcome.multipliers.push_back(
        !baseline || f == *baseline ? std::nullopt
                                    : compute_multiplier(
                                          outcome.frontiers[*baseline],
                                          outcome.checks[*baseline],
                                          outcome.frontiers[f],
                                          outcome.checks[f]));
  }
  return outcome;
}

Outcome evaluate(
    std::span<const Family> families,
    const Shifts& shifts,
    std::optional<std::size_t> baseline,
    const TangentOptions& options) {
  Outcome outcome = compare(families, shifts, baseline);
  outcome.fits = fit_tangents(families, shifts, options);
  return outcome;
}

}  // namespace einforge::scaling
