#include "einforge/scaling/multiplier.h"

#include <algorithm>
#include <cmath>

namespace einforge::scaling {
namespace {

constexpr int kLevels = 50;

}  // namespace

std::optional<Multiplier> compute_multiplier(
    const Frontier& baseline,
    const FrontierCheck& baseline_check,
    const Frontier& structure,
    const FrontierCheck& structure_check) {
  if (baseline.empty() || structure.empty()) {
    return std::nullopt;
  }
  Multiplier result;
  result.to = std::max(baseline.vertices.back().y, structure.vertices.back().y);
  result.from =
      std::min(baseline_check.optimal_from, structure_check.optimal_from);
  if (result.from <= result.to) {
    result.early = true;
    const bool structure_is_worse =
        structure.vertices.back().y >= baseline.vertices.back().y;
    result.from = std::min(
        {late_loss(structure_is_worse ? structure : baseline),
         baseline.vertices.front().y,
         structure.vertices.front().y});
  }
  if (result.from <= result.to) {
    return std::nullopt;
  }
  result.log_value =
      mean_log_ratio(baseline, structure, result.from, result.to);
  return result;
}

double mean_log_ratio(
    const Frontier& baseline,
    const Frontier& structure,
    double from,
    double to) {
  double sum = 0;
  for (int i = 0; i < kLevels; ++i) {
    const double level = std::lerp(from, to, (i + 0.5) / kLevels);
    sum += x_at(baseline, level) - x_at(structure, level);
  }
  return sum / kLevels;
}

}  // namespace einforge::scaling
