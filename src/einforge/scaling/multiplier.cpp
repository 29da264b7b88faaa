#include "einforge/scaling/multiplier.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace einforge::scaling {
namespace {

// The log loss of the frontier a tenth of the way, in compute, to its end.
double late_loss(const Frontier& frontier) {
  const auto& vertices = frontier.vertices;
  const double x = vertices.back().x - std::numbers::ln10;
  if (x <= vertices.front().x) {
    return vertices.front().y;
  }
  const auto right = std::lower_bound(
      vertices.begin(),
      vertices.end(),
      x,
      [](const Frontier::Vertex& vertex, double at) { return vertex.x < at; });
  const auto& b = *right;
  const auto& a = *(right - 1);
  return std::lerp(a.y, b.y, (x - a.x) / (b.x - a.x));
}

double optimal_from(const Frontier& frontier) {
  return frontier.run_count() > 1 ? frontier.vertices[frontier.first_touch].y
                                  : late_loss(frontier);
}

}  // namespace

std::optional<Multiplier> compute_multiplier(
    const Frontier& baseline, const Frontier& structure) {
  if (baseline.empty() || structure.empty()) {
    return std::nullopt;
  }
  Multiplier result;
  result.to = std::max(baseline.vertices.back().y, structure.vertices.back().y);
  result.from = std::min(optimal_from(baseline), optimal_from(structure));
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
  constexpr int kLevels = 50;
  for (int i = 0; i < kLevels; ++i) {
    const double level = std::lerp(result.from, result.to, (i + 0.5) / kLevels);
    result.log_value +=
        (x_at(baseline, level) - x_at(structure, level)) / kLevels;
  }
  return result;
}

}  // namespace einforge::scaling
