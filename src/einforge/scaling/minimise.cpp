#include "einforge/scaling/minimise.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

namespace einforge::scaling {
namespace {

using Vertex = Minimum;

// One simplex, until its values agree.
Minimum descend(
    const std::function<double(const std::vector<double>&)>& function,
    const std::vector<double>& start,
    const std::vector<double>& steps) {
  constexpr int kMostEvaluations = 1500;
  constexpr double kTolerance = 1e-5;
  const std::size_t n = start.size();
  const auto size = static_cast<double>(n);
  const double expand = 1 + 2 / size;
  const double contract = 0.75 - 1 / (2 * size);
  const double shrink = 1 - 1 / size;
  std::vector<Vertex> simplex = {{start, function(start)}};
  for (std::size_t i = 0; i < n; ++i) {
    std::vector<double> at = start;
    at[i] += steps[i];
    simplex.push_back({at, function(at)});
  }
  int evaluations = static_cast<int>(n) + 1;
  const auto by_value = [](const Vertex& a, const Vertex& b) {
    return a.value < b.value;
  };
  while (evaluations < kMostEvaluations) {
    std::sort(simplex.begin(), simplex.end(), by_value);
    Vertex& worst = simplex.back();
    if (worst.value - simplex.front().value < kTolerance) {
      break;
    }
    std::vector<double> centre(n, 0.0);
    for (std::size_t v = 0; v < n; ++v) {
      for (std::size_t i = 0; i < n; ++i) {
        centre[i] += simplex[v].at[i] / size;
      }
    }
    const auto along = [&](double step) {
      Vertex vertex{centre, 0};
      for (std::size_t i = 0; i < n; ++i) {
        vertex.at[i] += step * (centre[i] - worst.at[i]);
      }
      vertex.value = function(vertex.at);
      ++evaluations;
      return vertex;
    };
    Vertex next = along(1);
    if (next.value < simplex.front().value) {
      const Vertex further = along(expand);
      worst = further.value < next.value ? further : next;
      continue;
    }
    if (next.value < simplex[n - 1].value) {
      worst = next;
      continue;
    }
    const bool outside = next.value < worst.value;
    const Vertex nearer = along(outside ? contract : -contract);
    if (nearer.value < std::min(next.value, worst.value)) {
      worst = nearer;
      continue;
    }
    for (std::size_t v = 1; v <= n; ++v) {
      for (std::size_t i = 0; i < n; ++i) {
        simplex[v].at[i] =
            std::lerp(simplex.front().at[i], simplex[v].at[i], shrink);
      }
      simplex[v].value = function(simplex[v].at);
      ++evaluations;
    }
  }
  return *std::min_element(simplex.begin(), simplex.end(), by_value);
}

}  // namespace

Minimum minimise(
    const std::function<double(const std::vector<double>&)>& function,
    const std::vector<double>& start,
    const std::vector<double>& steps) {
  constexpr int kMostRestarts = 20;
  constexpr double kWorthwhile = 1e-3;
  // A simplex that has collapsed is begun again smaller, larger and mirrored.
  constexpr std::array<double, 3> kScales = {-0.3, 0.03, 1};
  Minimum best = descend(function, start, steps);
  std::size_t failures = 0;
  for (int i = 0; i < kMostRestarts && failures < kScales.size(); ++i) {
    std::vector<double> again = steps;
    for (double& step : again) {
      step *= kScales[failures];
    }
    const Minimum next = descend(function, best.at, again);
    failures = next.value < best.value - kWorthwhile ? 0 : failures + 1;
    if (next.value < best.value) {
      best = next;
    }
  }
  return best;
}

}  // namespace einforge::scaling
