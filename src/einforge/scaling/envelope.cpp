#include "einforge/scaling/envelope.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numbers>
#include <numeric>

#include "einforge/scaling/minimise.h"

namespace einforge::scaling {
namespace {

constexpr std::size_t kFewestSingles = 8;
constexpr int kFewestCurves = 4;
constexpr int kFewestDegrees = 3;
constexpr std::size_t kMostEvaluations = 16;  // of a curve
// A likelihood must grow by this much for an excess to be believed (Akaike).
constexpr double kExcessShows = 2;
// Of evaluations, a tenth has noise of three times the size: the contaminated
// normal of Tukey, which bounds what an outlier can do.
constexpr double kOutliers = 0.1;
constexpr double kOutlierSize = 3;
// No noise is smaller: a hundredth of a per mille of the loss.
constexpr double kLeastNoise = 1e-6;

double log_normal(double z) {
  return -0.5 * z * z - 0.5 * std::log(2 * std::numbers::pi);
}

double log_add(double a, double b) {
  const double high = std::max(a, b);
  return high + std::log1p(std::exp(std::min(a, b) - high));
}

// log of the integral over w >= 0 of exp(-w^4 / 2 - q w^2), a parabolic
// cylinder function. Source: Abramowitz and Stegun, 19.5.3.
double log_quartic(double q) {
  constexpr double kReach = 24;
  constexpr double kStep = 0.02;
  static const std::vector<double> table = [] {
    std::vector<double> values;
    for (double at = -kReach - 2 * kStep; at < kReach + 3 * kStep;
         at += kStep) {
      // An even, smooth integrand: the trapezoidal rule is exact but for
      // rounding.
      constexpr double kWidth = 0.01;
      const double top = at < 0 ? at * at / 2 : 0;
      double sum = 0.5 * std::exp(-top);
      for (double w = kWidth; w < 9; w += kWidth) {
        const double square = w * w;
        sum += std::exp(-square * square / 2 - at * square - top);
      }
      values.push_back(std::log(sum * kWidth) + top);
    }
    return values;
  }();
  if (q >= kReach) {
    return 0.5 * std::log(std::numbers::pi / (4 * q)) +
           std::log1p(-0.375 / (q * q));
  }
  if (q <= -kReach) {
    return q * q / 2 + 0.5 * std::log(std::numbers::pi / (-2 * q)) +
           std::log1p(0.375 / (q * q));
  }
  const double position = (q + kReach) / kStep + 2;
  const auto i = static_cast<std::size_t>(position);
  const double t = position - static_cast<double>(i);
  const double* p = &table[i - 1];
  return p[1] + 0.5 * t *
                    (p[2] - p[0] +
                     t * (2 * p[0] - 5 * p[1] + 4 * p[2] - p[3] +
                          t * (3 * (p[1] - p[2]) + p[3] - p[0])));
}

// log density of normal noise plus `scale` times chi-squared(1).
double log_excess(double residual, double noise, double scale) {
  const double z = residual / noise;
  const double q = noise / (2 * scale) - z;
  return log_normal(z) - std::log(noise) + 0.5 * std::log(noise / scale) +
         log_quartic(q) + 0.5 * std::log(2 / std::numbers::pi);
}

// A longer curve than most of its family, cut down.
Curve every_few(const Curve& curve) {
  Curve result;
  const std::size_t stride = 1 + (curve.size() - 1) / kMostEvaluations;
  for (std::size_t i = (curve.size() - 1) % stride; i < curve.size();
       i += stride) {
    result.x.push_back(curve.x[i]);
    result.y.push_back(curve.y[i]);
  }
  return result;
}

// Where the function is least between two points, if it has one valley there.
template <typename Function>
double golden_section(const Function& function, double low, double high) {
  constexpr double kGolden = 0.6180339887498949;
  double left = high - kGolden * (high - low);
  double right = low + kGolden * (high - low);
  double at_left = function(left);
  double at_right = function(right);
  for (int i = 0; i < 18; ++i) {
    if (at_left < at_right) {
      high = right;
      right = left;
      at_right = at_left;
      left = high - kGolden * (high - low);
      at_left = function(left);
    } else {
      low = left;
      left = right;
      at_left = at_right;
      right = low + kGolden * (high - low);
      at_right = function(right);
    }
  }
  return at_left < at_right ? left : right;
}

enum Parameter { kFloor, kScale, kExponent, kNoise, kExcess, kCurvature };

class Problem {
 public:
  explicit Problem(std::span<const Curve> curves) {
    std::vector<double> all;
    for (const Curve& curve : curves) {
      all.insert(all.end(), curve.x.begin(), curve.x.end());
      lowest_ =
          std::min(lowest_, *std::min_element(curve.y.begin(), curve.y.end()));
    }
    std::sort(all.begin(), all.end());
    centre_ = all[all.size() / 2];
    for (const Curve& curve : curves) {
      Curve moved = curve;
      for (double& x : moved.x) {
        x -= centre_;
      }
      moved = every_few(moved);
      evaluations_ += moved.size();
      (moved.size() == 1 ? singles_ : curves_).push_back(std::move(moved));
    }
  }

  bool has_curves() const { return curves_.size() > singles_.size() / 4; }

  bool is_enough() const {
    if (!has_curves()) {
      return singles_.size() >= kFewestSingles;
    }
    // A curve of n evaluations pays for where it touches, and two of them tell
    // nothing of how it bends.
    const auto bending =
        std::count_if(curves_.begin(), curves_.end(), [](const Curve& curve) {
          return curve.size() >= 3;
        });
    const auto free = static_cast<int>(evaluations_ - singles_.size()) -
                      static_cast<int>(curves_.size()) - 4;
    return bending >= kFewestCurves && free >= kFewestDegrees;
  }

  std::optional<EnvelopeFit> fit(const std::optional<EnvelopeFit>& start) {
    std::optional<Minimum> best;
    const auto value = [&](const std::vector<double>& at) {
      return -log_likelihood(at);
    };
    std::vector<double> steps = {0.1, 0.05, 0.1, 0.5, 0.5};
    if (has_curves()) {
      steps.push_back(0.2);
    }
    if (start) {
      for (double& step : steps) {
        step *= 0.3;
      }
      best = minimise(value, parameters_of(*start), steps);
    } else {
      for (const double share : {0.5, 0.75, 0.9}) {
        for (const double noise : {0.01, 0.0003}) {
          const Minimum found = minimise(value, start_at(share, noise), steps);
          if (!best || found.value < best->value) {
            best = found;
          }
        }
      }
    }
    // Where there is little noise the likelihood has a narrow ridge that a
    // search with more passes by.
    for (int i = 0; i < 3 && !start; ++i) {
      std::vector<double> at = best->at;
      at[kNoise] -= 2 * i + 2;
      Minimum found = minimise(value, at, steps);
      if (found.value < best->value) {
        best = std::move(found);
      }
    }
    if (!std::isfinite(best->value)) {
      return std::nullopt;
    }
    EnvelopeFit fit = fit_of(best->at);
    fit.log_likelihood = -best->value;
    return fit;
  }

  // Whether the runs of one evaluation are better explained with an excess
  // than without.
  bool excess_shows(const EnvelopeFit& fit) const {
    std::vector<double> at = parameters_of(fit);
    const Minimum without = minimise(
        [&](const std::vector<double>& some) {
          std::vector<double> all = at;
          std::copy(some.begin(), some.end(), all.begin());
          all[kExcess] = -std::numeric_limits<double>::infinity();
          return -log_likelihood(all);
        },
        {at[kFloor], at[kScale], at[kExponent], at[kNoise]},
        {0.1, 0.05, 0.1, 0.5});
    return fit.log_likelihood > -without.value + kExcessShows;
  }

 private:
  // A line in logarithms through all evaluations for this floor, let down until
  // a tenth of them lie below: the floor as a logit of its share in the lowest
  // loss, the rest as logarithms.
  std::vector<double> start_at(double share, double noise) const {
    const double floor = share * std::exp(lowest_);
    std::vector<double> x;
    std::vector<double> z;
    for (const auto* runs : {&singles_, &curves_}) {
      for (const Curve& curve : *runs) {
        for (std::size_t i = 0; i < curve.size(); ++i) {
          x.push_back(curve.x[i]);
          z.push_back(std::log(std::exp(curve.y[i]) - floor));
        }
      }
    }
    const auto count = static_cast<double>(x.size());
    const double mean_x = std::accumulate(x.begin(), x.end(), 0.0) / count;
    const double mean_z = std::accumulate(z.begin(), z.end(), 0.0) / count;
    double top = 0;
    double bottom = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      top += (x[i] - mean_x) * (z[i] - mean_z);
      bottom += (x[i] - mean_x) * (x[i] - mean_x);
    }
    const double exponent =
        std::clamp(bottom > 0 ? -top / bottom : 0.1, 0.02, 2.0);
    for (std::size_t i = 0; i < x.size(); ++i) {
      z[i] += exponent * x[i];
    }
    const auto low = z.begin() + static_cast<std::ptrdiff_t>(z.size() / 10);
    std::nth_element(z.begin(), low, z.end());
    std::vector<double> at = {
        std::log(share / (1 - share)),
        *low,
        std::log(exponent),
        std::log(noise),
        std::log(0.03)};
    if (has_curves()) {
      at.push_back(std::log(exponent));
    }
    return at;
  }

  std::vector<double> parameters_of(const EnvelopeFit& fit) const {
    const double share =
        std::clamp(fit.law.floor / std::exp(lowest_), 1e-6, 1 - 1e-6);
    std::vector<double> at = {
        std::log(share / (1 - share)),
        fit.law.log_scale - fit.law.exponent * centre_,
        std::log(fit.law.exponent),
        std::log(fit.noise),
        std::log(fit.excess)};
    if (has_curves()) {
      at.push_back(std::log(fit.curvature));
    }
    return at;
  }

  EnvelopeFit fit_of(const std::vector<double>& at) const {
    EnvelopeFit fit;
    fit.law.floor = std::exp(lowest_) / (1 + std::exp(-at[kFloor]));
    fit.law.exponent = std::exp(at[kExponent]);
    fit.law.log_scale = at[kScale] + fit.law.exponent * centre_;
    fit.noise = kLeastNoise + std::exp(at[kNoise]);
    fit.excess = std::exp(at[kExcess]);
    fit.curvature = has_curves() ? std::exp(at[kCurvature]) : 0;
    return fit;
  }

  double log_likelihood(const std::vector<double>& at) const {
    const double floor = std::exp(lowest_) / (1 + std::exp(-at[kFloor]));
    const double exponent = std::exp(at[kExponent]);
    const double noise = kLeastNoise + std::exp(at[kNoise]);
    const double excess = std::exp(at[kExcess]);
    // The density of an excess has a pole at 0, so that without noise a law
    // through any three runs of one evaluation would be infinitely likely: that
    // is what its three parameters pay for.
    double sum = has_curves() ? 0 : 1.5 * std::log(noise);
    for (const Curve& single : singles_) {
      const double above = std::exp(at[kScale] - exponent * single.x[0]);
      const double residual = single.y[0] - std::log(floor + above);
      const double scale = excess * above / (floor + above);
      sum += scale > 1e-12
                 ? log_add(
                       std::log(1 - kOutliers) +
                           log_excess(residual, noise, scale),
                       std::log(kOutliers) +
                           log_excess(residual, kOutlierSize * noise, scale))
                 : log_noise(residual, noise);
    }
    if (has_curves()) {
      const double curvature = std::exp(at[kCurvature]);
      for (const Curve& curve : curves_) {
        sum += curve_likelihood(
            curve, floor, at[kScale], exponent, curvature, noise);
      }
    }
    return std::isfinite(sum) ? sum : -1e300;
  }

  static double log_noise(double residual, double noise) {
    const double z = residual / noise;
    return log_add(
               std::log(1 - kOutliers) + log_normal(z),
               std::log(kOutliers / kOutlierSize) +
                   log_normal(z / kOutlierSize)) -
           std::log(noise);
  }

  // Of a short curve, at its most likely point of touch.
  static double curve_likelihood(
      const Curve& curve,
      double floor,
      double log_scale,
      double exponent,
      double curvature,
      double noise) {
    const std::size_t n = curve.size();
    // cosh(curvature (x - touch)) by exponentials, which the search shares.
    std::array<double, kMostEvaluations> loss{};
    std::array<double, kMostEvaluations> above{};
    std::array<double, kMostEvaluations> grow{};
    for (std::size_t i = 0; i < n; ++i) {
      loss[i] = std::exp(curve.y[i]);
      above[i] = 0.5 * std::exp(log_scale - exponent * curve.x[i]);
      grow[i] = std::exp(curvature * (curve.x[i] - curve.x.front()));
    }
    const double middle = 0.5 * curvature * (curve.x.back() - curve.x.front());
    // The size is the best one somewhere near, within a factor of exp(d).
    constexpr double kNear = 1.5;
    // touch: in units of 1 / curvature, from the first point.
    const auto cost = [&](double touch) {
      const double shrink = std::exp(-touch);
      double sum = 0.5 * std::pow((middle - touch) / kNear, 2);
      for (std::size_t i = 0; i < n; ++i) {
        const double d = grow[i] * shrink;
        const double error = 1 - (floor + above[i] * (d + 1 / d)) / loss[i];
        sum += std::sqrt(1 + std::pow(error / noise, 2));
      }
      return sum;
    };
    constexpr double kReach = 2;
    constexpr int kGrid = 12;
    const double first = -kReach;
    const double step = (2 * middle + 2 * kReach) / kGrid;
    double best = first;
    double lowest = cost(first);
    for (int i = 1; i <= kGrid; ++i) {
      const double value = cost(first + step * i);
      if (value < lowest) {
        lowest = value;
        best = first + step * i;
      }
    }
    best = golden_section(cost, best - step, best + step);
    const double shrink = std::exp(-best);
    // One evaluation's worth of noise is spent on the touch.
    double sum = std::log(noise) - 0.5 * std::pow((middle - best) / kNear, 2);
    for (std::size_t i = 0; i < n; ++i) {
      const double d = grow[i] * shrink;
      sum += log_noise(
          curve.y[i] - std::log(floor + above[i] * (d + 1 / d)), noise);
    }
    return sum;
  }

  std::vector<Curve> singles_;
  std::vector<Curve> curves_;
  double centre_ = 0;
  double lowest_ = std::numeric_limits<double>::infinity();
  std::size_t evaluations_ = 0;
};

}  // namespace

bool is_sparse(std::span<const Curve> curves) {
  const auto few =
      std::count_if(curves.begin(), curves.end(), [](const Curve& curve) {
        return curve.size() < kPointsForCurve;
      });
  return 2 * static_cast<std::size_t>(few) > curves.size();
}

std::optional<EnvelopeFit> fit_envelope(
    std::span<const Curve> curves, const std::optional<EnvelopeFit>& start) {
  Problem problem(curves);
  if (!problem.is_enough()) {
    return std::nullopt;
  }
  auto fit = problem.fit(start);
  if (fit && !start && !problem.has_curves() && !problem.excess_shows(*fit)) {
    return std::nullopt;
  }
  return fit;
}

std::vector<std::size_t> jackknife_groups(std::span<const Curve> curves) {
  constexpr std::size_t kMostGroups = 20;
  std::vector<std::size_t> order(curves.size());
  std::iota(order.begin(), order.end(), 0);
  const auto middle = [&](std::size_t i) {
    return curves[i].x.front() + curves[i].x.back();
  };
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) {
    return middle(a) < middle(b);
  });
  const std::size_t groups = std::min(kMostGroups, curves.size());
  std::vector<std::size_t> group(curves.size());
  for (std::size_t i = 0; i < order.size(); ++i) {
    group[order[i]] = i * groups / order.size();
  }
  return group;
}

}  // namespace einforge::scaling
