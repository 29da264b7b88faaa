#include "einforge/search/curve_law.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "einforge/scaling/minimise.h"

namespace einforge::search {
namespace {

enum Parameter { kFloor, kLogA, kLogPowerA, kLogB, kLogPowerB, kOmega, kPsi };

// Means and standard deviations of what is believed before any point: E half
// of the least loss, exponents around a third, less than full rank and shared
// parameters cost a little. A and B are shares of the least loss.
constexpr std::array<double, 7> kMeans = {0, -2, -1, -1.2, -1, 0.1, 0.1};
constexpr std::array<double, 7> kSpreads = {1, 1, 0.5, 1, 0.5, 0.3, 0.3};
// Of ln loss about the law: structures and learning rates differ.
constexpr double kNoise = 0.03;

double share(double x) {
  return 1 / (1 + std::exp(-x));
}

double huber(double x) {
  const double size = std::abs(x);
  return size < 1 ? 0.5 * x * x : size - 0.5;
}

}  // namespace

CurveLaw::CurveLaw(const std::vector<LossPoint>& points)
    : at_(kMeans.begin(), kMeans.end()) {
  if (points.empty()) {
    return;
  }
  least_ = INFINITY;
  const auto count = static_cast<double>(points.size());
  for (const LossPoint& point : points) {
    least_ = std::min(least_, point.loss);
    log_width_ += std::log(point.width) / count;
    log_tokens_ += std::log(point.tokens) / count;
  }
  const auto misfit = [&](const std::vector<double>& at) {
    double sum = 0;
    for (std::size_t i = 0; i < at.size(); ++i) {
      const double off = (at[i] - kMeans[i]) / kSpreads[i];
      sum += 0.5 * off * off;
    }
    for (const LossPoint& point : points) {
      sum += huber(std::log(point.loss / loss(point, at)) / kNoise);
    }
    return sum;
  };
  at_ = scaling::minimise(
            misfit, at_, std::vector<double>(kSpreads.begin(), kSpreads.end()))
            .at;
  floor_ = least_ * share(at_[kFloor]);
}

double CurveLaw::loss(const LossPoint& point) const {
  return loss(point, at_);
}

double CurveLaw::loss(
    const LossPoint& point, const std::vector<double>& at) const {
  const double width = std::log(point.width) - log_width_;
  const double tokens = std::log(point.tokens) - log_tokens_;
  const double excess = std::exp(at[kLogA] - std::exp(at[kLogPowerA]) * width) +
                        std::exp(at[kLogB] - std::exp(at[kLogPowerB]) * tokens);
  const double structure =
      at[kOmega] * std::max(point.omega, 0.0) + at[kPsi] * (1 - point.psi);
  return least_ * (share(at[kFloor]) + excess * std::exp(structure));
}

}  // namespace einforge::search
