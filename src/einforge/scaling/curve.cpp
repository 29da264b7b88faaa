#include "einforge/scaling/curve.h"

#include <Eigen/Dense>
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>

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

// A smoothed value, and the point's own share in it: its variance is that share
// of an evaluation's, for weights that are near to equal.
struct Fitted {
  double y = 0;
  double share = 1;
};

// Weighted quadratic regression at point i on the `window` points from `begin`,
// tricube weights.
// Source: Cleveland, JASA 74 (1979), 829-836.
Fitted local_quadratic(
    const Curve& curve, std::size_t i, std::size_t begin, std::size_t window) {
  const double reach = 1.2 * std::max(
                                 curve.x[i] - curve.x[begin],
                                 curve.x[begin + window - 1] - curve.x[i]);
  Eigen::Matrix3d normal = Eigen::Matrix3d::Zero();
  Eigen::Vector3d right = Eigen::Vector3d::Zero();
  for (std::size_t j = begin; j < begin + window; ++j) {
    const double distance = (curve.x[j] - curve.x[i]) / reach;
    const double size = std::abs(distance);
    const double cube = 1 - size * size * size;
    const double weight = cube * cube * cube;
    const Eigen::Vector3d row(1, distance, distance * distance);
    normal += weight * row * row.transpose();
    right += weight * curve.y[j] * row;
  }
  const Eigen::LDLT<Eigen::Matrix3d> solver(normal);
  const Eigen::Vector3d influence = solver.solve(Eigen::Vector3d::UnitX());
  return {influence.dot(right), std::clamp(influence[0], 0.0, 1.0)};
}

// The first of the `window` points around i that lie nearest to it.
std::size_t nearest_from(
    const Curve& curve, std::size_t i, std::size_t window) {
  const std::size_t n = curve.size();
  std::size_t begin = i + 1 > window ? i + 1 - window : 0;
  while (begin + window < n && begin < i &&
         curve.x[begin + window] - curve.x[i] < curve.x[i] - curve.x[begin]) {
    ++begin;
  }
  return begin;
}

}  // namespace

Curve log_curve(const Run& run, Metric metric) {
  std::vector<std::pair<double, double>> points;
  points.reserve(run.points.size());
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

double evaluation_noise(const Curve& curve) {
  // The lower quartile of |standard normal|.
  constexpr double kQuartile = 0.31864;
  if (curve.size() < kPointsToSmooth) {
    return 0;
  }
  // The divided difference of third order of four neighbours, scaled to the
  // variance of one evaluation, is blind to quadratics.
  std::vector<double> sizes;
  sizes.reserve(curve.size());
  for (std::size_t i = 0; i + 3 < curve.size(); ++i) {
    const double span = curve.x[i + 3] - curve.x[i];
    double sum = 0;
    double norm = 0;
    for (std::size_t j = i; j < i + 4; ++j) {
      double product = 1;
      for (std::size_t k = i; k < i + 4; ++k) {
        product *= k == j ? 1 : (curve.x[j] - curve.x[k]) / span;
      }
      sum += curve.y[j] / product;
      norm += 1 / (product * product);
    }
    sizes.push_back(std::abs(sum) / std::sqrt(norm));
  }
  const auto quartile =
      sizes.begin() + static_cast<std::ptrdiff_t>(sizes.size() / 4);
  std::nth_element(sizes.begin(), quartile, sizes.end());
  return *quartile / kQuartile;
}

Curve without_dips(const Curve& curve) {
  constexpr double kFar = 8;        // in sizes of what else the neighbours say
  constexpr double kLeast = 0.005;  // of the loss
  Curve result = curve;
  const double noise = evaluation_noise(curve);
  for (std::size_t i = 2; i + 2 < curve.size(); ++i) {
    if (curve.y[i] >= curve.y[i - 1] - kLeast ||
        curve.y[i] >= curve.y[i + 1] - kLeast) {
      continue;
    }
    // A line through the four neighbours, and what it leaves over.
    const std::array<std::size_t, 4> near = {i - 2, i - 1, i + 1, i + 2};
    double x = 0;
    double y = 0;
    for (const std::size_t j : near) {
      x += curve.x[j] / 4;
      y += curve.y[j] / 4;
    }
    double top = 0;
    double bottom = 0;
    for (const std::size_t j : near) {
      top += (curve.x[j] - x) * (curve.y[j] - y);
      bottom += (curve.x[j] - x) * (curve.x[j] - x);
    }
    const double slope = top / bottom;
    double rest = noise;
    for (const std::size_t j : near) {
      rest =
          std::max(rest, std::abs(curve.y[j] - y - slope * (curve.x[j] - x)));
    }
    const double expected = y + slope * (curve.x[i] - x);
    if (expected - curve.y[i] > kFar * rest) {
      result.y[i] = expected;
    }
  }
  return result;
}

// The choice of the window: Goldenshluger and Nemirovski, Mathematical Methods
// of Statistics 6 (1997), 135-170.
Curve smooth(const Curve& measured) {
  constexpr std::array<std::size_t, 4> kWindows = {5, 9, 17, 33};
  constexpr double kAgree = 2;  // standard errors
  const Curve curve = without_dips(measured);
  Curve result = curve;
  if (curve.size() < kPointsToSmooth) {
    return result;
  }
  const double noise = evaluation_noise(curve);
  result.error.assign(curve.size(), noise);
  for (std::size_t i = 0; i < curve.size(); ++i) {
    double low = curve.y[i] - kAgree * noise;
    double high = curve.y[i] + kAgree * noise;
    for (const std::size_t window : kWindows) {
      if (window > curve.size()) {
        break;
      }
      const std::size_t begin = nearest_from(curve, i, window);
      const Fitted fitted = local_quadratic(curve, i, begin, window);
      const double error = noise * std::sqrt(fitted.share);
      low = std::max(low, fitted.y - kAgree * error);
      high = std::min(high, fitted.y + kAgree * error);
      if (!(low <= high)) {
        break;
      }
      const auto first = curve.y.begin() + static_cast<std::ptrdiff_t>(begin);
      const double lowest =
          *std::min_element(first, first + static_cast<std::ptrdiff_t>(window));
      result.y[i] = std::max(fitted.y, lowest);
      result.error[i] = error;
    }
  }
  return result;
}

Curve thin(const Curve& curve, std::size_t points) {
  if (curve.size() <= points) {
    return curve;
  }
  Curve result;
  const auto keep = [&](std::size_t i) {
    result.x.push_back(curve.x[i]);
    result.y.push_back(curve.y[i]);
    if (!curve.error.empty()) {
      result.error.push_back(curve.error[i]);
    }
  };
  const std::size_t last = curve.size() - 1;
  const double width =
      (curve.x[last] - curve.x[0]) / static_cast<double>(points - 2);
  keep(0);
  std::size_t i = 1;
  while (i < last) {
    const double share = std::floor((curve.x[i] - curve.x[0]) / width);
    std::size_t lowest = i;
    for (; i < last && std::floor((curve.x[i] - curve.x[0]) / width) == share;
         ++i) {
      lowest = curve.y[i] < curve.y[lowest] ? i : lowest;
    }
    keep(lowest);
  }
  keep(last);
  return result;
}

// Source: Theil (1950) and Sen, JASA 63 (1968), 1379-1389.
double slope_from(const Curve& curve, double from) {
  constexpr std::size_t kMost = 40;
  const std::size_t n = curve.size();
  if (n < 3) {
    return std::numeric_limits<double>::quiet_NaN();
  }
  from = std::min(from, curve.x[n - 1] - std::log(1.5));
  const auto first =
      std::lower_bound(curve.x.begin(), curve.x.end() - 2, from) -
      curve.x.begin();
  const auto begin = static_cast<std::size_t>(first);
  const std::size_t stride = 1 + (n - 1 - begin) / kMost;
  std::vector<double> slopes;
  for (std::size_t i = begin + stride; i < n; i += stride) {
    for (std::size_t j = begin; j < i; j += stride) {
      slopes.push_back((curve.y[i] - curve.y[j]) / (curve.x[i] - curve.x[j]));
    }
  }
  const auto middle =
      slopes.begin() + static_cast<std::ptrdiff_t>(slopes.size() / 2);
  std::nth_element(slopes.begin(), middle, slopes.end());
  return *middle;
}

double end_slope(const Curve& curve) {
  return curve.x.empty() ? std::numeric_limits<double>::quiet_NaN()
                         : slope_from(curve, curve.x.back());
}

}  // namespace einforge::scaling
