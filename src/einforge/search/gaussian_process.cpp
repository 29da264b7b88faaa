#include "einforge/search/gaussian_process.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>

namespace einforge::search {
namespace {

constexpr double kSqrt5 = 2.23606797749978969;

// Priors: means and standard deviations of the logarithms.
constexpr double kLengthSpread = 1;
constexpr double kVarianceMean = 0;
constexpr double kVarianceSpread = 1;
constexpr double kNoiseMean = -4;  // a seventh of the values' spread
constexpr double kNoiseSpread = 1.5;

// Distances grow as the root of the number of inputs, and so do lengths that
// keep them correlated.
double length_mean(Eigen::Index inputs) {
  return std::log(0.5 * std::sqrt(static_cast<double>(inputs)));
}

GaussianProcess::Parameters unpack(const Eigen::VectorXd& at) {
  const Eigen::Index inputs = at.size() - 2;
  return {at.head(inputs), at[inputs], at[inputs + 1]};
}

}  // namespace

GaussianProcess::GaussianProcess(
    Eigen::MatrixXd x, Eigen::VectorXd y, Parameters parameters)
    : y_(std::move(y)),
      lengths_(parameters.log_lengths.array().exp()),
      parameters_(std::move(parameters)) {
  x_ = (x * lengths_.cwiseInverse().asDiagonal()).transpose();
  const Eigen::Index count = x_.cols();
  Eigen::MatrixXd covariance(count, count);
  for (Eigen::Index i = 0; i < count; ++i) {
    for (Eigen::Index j = 0; j <= i; ++j) {
      covariance(i, j) = kernel((x_.col(i) - x_.col(j)).squaredNorm());
    }
    // A little more than rounding, whatever the noise.
    covariance(i, i) += noise() + 1e-10 * covariance(i, i);
  }
  cholesky_.compute(covariance);  // reads the lower half
  weights_ = cholesky_.solve(y_);
}

double GaussianProcess::kernel(double squared_distance) const {
  const double r = kSqrt5 * std::sqrt(squared_distance);
  return std::exp(parameters_.log_variance - r) * (1 + r + r * r / 3);
}

Eigen::MatrixXd GaussianProcess::kernel_to(const Eigen::MatrixXd& at) const {
  const Eigen::MatrixXd scaled =
      (at * lengths_.cwiseInverse().asDiagonal()).transpose();
  Eigen::MatrixXd result(x_.cols(), scaled.cols());
  for (Eigen::Index j = 0; j < scaled.cols(); ++j) {
    const Eigen::ArrayXd r =
        kSqrt5 *
        (x_.colwise() - scaled.col(j)).colwise().norm().transpose().array();
    result.col(j) =
        (parameters_.log_variance - r).exp() * (1 + r + r.square() / 3);
  }
  return result;
}

double GaussianProcess::noise() const {
  return std::exp(parameters_.log_noise);
}

double GaussianProcess::log_likelihood() const {
  const double log_determinant =
      2 * Eigen::MatrixXd(cholesky_.matrixL()).diagonal().array().log().sum();
  return -0.5 *
         (y_.dot(weights_) + log_determinant +
          static_cast<double>(y_.size()) * std::log(2 * std::numbers::pi));
}

double GaussianProcess::log_likelihood(Eigen::VectorXd& gradient) const {
  const Eigen::Index count = x_.cols();
  const Eigen::Index inputs = x_.rows();
  // d log p / d p = 1/2 tr((w w^T - K^-1) dK / dp)
  const Eigen::MatrixXd inverse =
      cholesky_.solve(Eigen::MatrixXd::Identity(count, count));
  gradient = Eigen::VectorXd::Zero(inputs + 2);
  const double variance = std::exp(parameters_.log_variance);
  for (Eigen::Index i = 0; i < count; ++i) {
    const double own = weights_[i] * weights_[i] - inverse(i, i);
    gradient[inputs] += 0.5 * own * variance;
    gradient[inputs + 1] += 0.5 * own * noise();
    for (Eigen::Index j = 0; j < i; ++j) {
      const double weight = weights_[i] * weights_[j] - inverse(i, j);
      const auto squares = (x_.col(i) - x_.col(j)).array().square();
      const double r = kSqrt5 * std::sqrt(squares.sum());
      const double decay = std::exp(-r) * variance;
      gradient[inputs] += weight * decay * (1 + r + r * r / 3);
      // dk / d log l_m = 5/3 (1 + r) exp(-r) (difference_m / l_m)^2
      gradient.head(inputs).array() +=
          weight * decay * (5.0 / 3) * (1 + r) * squares;
    }
  }
  return log_likelihood();
}

GaussianProcess::Parameters GaussianProcess::fit(
    const Eigen::MatrixXd& x, const Eigen::VectorXd& y) {
  constexpr int kSteps = 60;
  const Eigen::Index inputs = x.cols();
  Eigen::VectorXd mean =
      Eigen::VectorXd::Constant(inputs + 2, length_mean(inputs));
  Eigen::VectorXd spread = Eigen::VectorXd::Constant(inputs + 2, kLengthSpread);
  mean.tail(2) << kVarianceMean, kNoiseMean;
  spread.tail(2) << kVarianceSpread, kNoiseSpread;

  Eigen::VectorXd at = mean;
  Eigen::VectorXd best = at;
  double best_density = -INFINITY;
  Eigen::VectorXd steps = Eigen::VectorXd::Constant(inputs + 2, 0.2);
  Eigen::VectorXd before = Eigen::VectorXd::Zero(inputs + 2);
  for (int step = 0; step < kSteps; ++step) {
    Eigen::VectorXd gradient;
    const Eigen::VectorXd from_mean = (at - mean).cwiseQuotient(spread);
    const double density =
        GaussianProcess(x, y, unpack(at)).log_likelihood(gradient) -
        0.5 * from_mean.squaredNorm();
    gradient -= from_mean.cwiseQuotient(spread);
    if (!std::isfinite(density) || !gradient.allFinite()) {
      break;
    }
    if (density > best_density) {
      best_density = density;
      best = at;
    }
    for (Eigen::Index i = 0; i < at.size(); ++i) {
      const double same = gradient[i] * before[i];
      steps[i] = std::clamp(
          steps[i] * (same > 0   ? 1.2
                      : same < 0 ? 0.5
                                 : 1.0),
          1e-4,
          0.5);
      before[i] = same < 0 ? 0 : gradient[i];
      if (same >= 0 && gradient[i] != 0) {
        at[i] += std::copysign(steps[i], gradient[i]);
      }
    }
  }
  return unpack(best);
}

GaussianProcess::Prediction GaussianProcess::predict(
    const Eigen::MatrixXd& at) const {
  Prediction result;
  Eigen::MatrixXd half = kernel_to(at);
  result.mean = half.transpose() * weights_;
  cholesky_.matrixL().solveInPlace(half);
  result.variance =
      (kernel(0) - half.colwise().squaredNorm().transpose().array()).max(0.0);
  return result;
}

}  // namespace einforge::search
