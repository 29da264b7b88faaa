#include "einforge/scaling/curve.h"

#include <Eigen/Dense>
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace einforge::scaling {
namespace {

double coordinate(const Point& point, Metric metric) {
  switch (metric) {
    case Metric::kFlops:
      return point.compute;
    case Metric::kSeconds:
      return point.seconds;
    case Metric::kTokens:
      return point.tokens;
  }
  return 0;
}

struct Smoothed {
  std::vector<double> y;
  double leave_one_out = 0;  // mean squared error
  double mean_share = 0;     // of a point in its own fitted value
};

// Weighted quadratic regression around each point on its `window` nearest
// neighbours, tricube weights.
// Source: Cleveland, JASA 74 (1979), 829-836.
Smoothed local_quadratic(const Curve& curve, std::size_t window) {
  const std::size_t n = curve.x.size();
  Smoothed result;
  result.y.resize(n);
  std::size_t begin = 0;
  for (std::size_t i = 0; i < n; ++i) {
    // The window slides right while the next point is nearer than its first.
    while (begin + window < n &&
           curve.x[begin + window] - curve.x[i] < curve.x[i] - curve.x[begin]) {
      ++begin;
    }
    const double reach = 1.2 * std::max(
                                   curve.x[i] - curve.x[begin],
                                   curve.x[begin + window - 1] - curve.x[i]);
    Eigen::Matrix3d normal = Eigen::Matrix3d::Zero();
    Eigen::Vector3d right = Eigen::Vector3d::Zero();
    for (std::size_t j = begin; j < begin + window; ++j) {
      const double distance = (curve.x[j] - curve.x[i]) / reach;
      const double cube = 1 - std::pow(std::abs(distance), 3);
      const double weight = cube * cube * cube;
      const Eigen::Vector3d row(1, distance, distance * distance);
      normal += weight * row * row.transpose();
      right += weight * curve.y[j] * row;
    }
    const Eigen::LDLT<Eigen::Matrix3d> solver(normal);
    const Eigen::Vector3d influence = solver.solve(Eigen::Vector3d::UnitX());
    result.y[i] = influence.dot(right);
    // influence[0] is this point's own share in its fitted value.
    const double share = std::min(influence[0], 0.999);
    const double error = (curve.y[i] - result.y[i]) / (1 - share);
    result.leave_one_out += error * error / static_cast<double>(n);
    result.mean_share += share / static_cast<double>(n);
  }
  return result;
}

}  // namespace

Curve log_curve(const Run& run, Metric metric) {
  std::vector<std::pair<double, double>> points;
  for (const Point& point : run.points) {
    const double x = coordinate(point, metric);
    if (std::isfinite(x) && x > 0 && std::isfinite(point.loss) &&
        point.loss > 0) {
      points.emplace_back(std::log(x), std::log(point.loss));
    }
  }
  std::stable_sort(
      points.begin(), points.end(), [](const auto& a, const auto& b) {
        return a.first < b.first;
      });
  Curve curve;
  for (const auto& [x, y] : points) {
    if (!curve.x.empty() && curve.x.back() == x) {
      curve.y.back() = y;
    } else {
      curve.x.push_back(x);
      curve.y.push_back(y);
    }
  }
  return curve;
}

Curve smooth(const Curve& curve) {
  constexpr std::array<std::size_t, 4> kWindows = {5, 9, 17, 33};
  constexpr std::size_t kFewest = 8;
  if (curve.x.size() < kFewest) {
    return curve;
  }
  Curve best = curve;
  double best_error = std::numeric_limits<double>::infinity();
  for (const std::size_t window : kWindows) {
    if (window > curve.x.size()) {
      break;
    }
    Smoothed smoothed = local_quadratic(curve, window);
    if (smoothed.leave_one_out < best_error) {
      best_error = smoothed.leave_one_out;
      best.y = std::move(smoothed.y);
      // Leave-one-out error is noise and what smoothing leaves of it:
      // variance (1 + share / (1 - share)) of a point's, near enough.
      best.standard_error = std::sqrt(
          smoothed.leave_one_out * (1 - smoothed.mean_share) *
          smoothed.mean_share);
    }
  }
  return best;
}

}  // namespace einforge::scaling
