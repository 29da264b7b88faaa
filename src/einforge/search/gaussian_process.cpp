#include "einforge/search/gaussian_process.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>

namespace einforge::search {
namespace {

constexpr double kSqrt5 = 2.23606797749978969;

// Priors: means and standard deviations of the logarithms.
constexpr double kLengthMean = 0;
constexpr double kLengthSpread = 1;
constexpr double kVarianceSpread = 1;
constexpr double kNoiseMean = -4;  // a seventh of the values' spread
constexpr double kNoiseSpread = 1.5;

GaussianProcess::Parameters unpack(
    const Eigen::VectorXd& at, Eigen::Index inputs) {
  const Eigen::Index terms = at.size() - inputs - 1;
  return {at.head(inputs), at.segment(inputs, terms), at[at.size() - 1]};
}

}  // namespace

GaussianProcess::GaussianProcess(
    const Eigen::MatrixXd& x,
    Eigen::VectorXd y,
    std::vector<Term> terms,
    Parameters parameters)
    : terms_(std::move(terms)),
      x_(x.transpose()),
      y_(std::move(y)),
      parameters_(std::move(parameters)),
      variances_(parameters_.log_variances.array().exp()) {
  Eigen::MatrixXd covariance = kernel_to(x_);
  // A little more than rounding, whatever the noise.
  covariance.diagonal().array() += noise() + 1e-10 * variances_.sum();
  cholesky_.compute(covariance);  // reads the lower half
  weights_ = cholesky_.solve(y_);
}

double GaussianProcess::weight(std::size_t term, Eigen::Index input) const {
  // Distances grow as the root of the number of inputs.
  return 4 / static_cast<double>(terms_[term].inputs.size()) *
         std::exp(-2 * parameters_.log_lengths[input]);
}

Eigen::ArrayXXd GaussianProcess::distances(
    std::size_t term, const Eigen::MatrixXd& at) const {
  const std::vector<Eigen::Index>& inputs = terms_[term].inputs;
  const auto count = static_cast<Eigen::Index>(inputs.size());
  Eigen::MatrixXd from(count, x_.cols());
  Eigen::MatrixXd to(count, at.cols());
  for (Eigen::Index i = 0; i < count; ++i) {
    const Eigen::Index input = inputs[static_cast<std::size_t>(i)];
    const double scale = std::sqrt(weight(term, input));
    from.row(i) = scale * x_.row(input);
    to.row(i) = scale * at.row(input);
  }
  Eigen::MatrixXd result = -2 * from.transpose() * to;
  result.colwise() += from.colwise().squaredNorm().transpose();
  result.rowwise() += to.colwise().squaredNorm();
  return kSqrt5 * result.array().max(0).sqrt();
}

Eigen::ArrayXXd GaussianProcess::same(
    std::size_t term, const Eigen::MatrixXd& at) const {
  const std::vector<Eigen::Index>& inputs = terms_[term].inputs;
  Eigen::ArrayXXd result(x_.cols(), at.cols());
  for (Eigen::Index j = 0; j < at.cols(); ++j) {
    for (Eigen::Index i = 0; i < x_.cols(); ++i) {
      result(i, j) =
          std::ranges::all_of(
              inputs,
              [&](Eigen::Index input) { return x_(input, i) == at(input, j); })
              ? 1
              : 0;
    }
  }
  return result;
}

Eigen::ArrayXXd GaussianProcess::kernel(
    std::size_t term, const Eigen::MatrixXd& at) const {
  if (terms_[term].exact) {
    return same(term, at);
  }
  const Eigen::ArrayXXd r = distances(term, at);
  return (-r).exp() * (1 + r + r.square() / 3);
}

Eigen::MatrixXd GaussianProcess::kernel_to(const Eigen::MatrixXd& at) const {
  Eigen::ArrayXXd result = Eigen::ArrayXXd::Zero(x_.cols(), at.cols());
  for (std::size_t term = 0; term < terms_.size(); ++term) {
    result += variances_[static_cast<Eigen::Index>(term)] * kernel(term, at);
  }
  return result.matrix();
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
  const auto terms = static_cast<Eigen::Index>(terms_.size());
  // d log p / d p = 1/2 sum of (w w^T - K^-1) dK / dp
  const Eigen::ArrayXXd factor =
      0.5 * (weights_ * weights_.transpose() -
             cholesky_.solve(Eigen::MatrixXd::Identity(count, count)));
  gradient = Eigen::VectorXd::Zero(inputs + terms + 1);
  for (Eigen::Index i = 0; i < terms; ++i) {
    const auto term = static_cast<std::size_t>(i);
    if (terms_[term].exact) {
      gradient[inputs + i] = variances_[i] * (factor * same(term, x_)).sum();
      continue;
    }
    const Eigen::ArrayXXd r = distances(term, x_);
    const Eigen::ArrayXXd decay = variances_[i] * factor * (-r).exp();
    gradient[inputs + i] = (decay * (1 + r + r.square() / 3)).sum();
    // dk / d log l_m = 5/3 (1 + r) exp(-r) (difference_m / l_m)^2
    const Eigen::MatrixXd slopes = 5.0 / 3 * decay * (1 + r);
    const Eigen::VectorXd sums = slopes.rowwise().sum();
    for (const Eigen::Index input : terms_[term].inputs) {
      const Eigen::VectorXd at = x_.row(input);
      gradient[input] += 2 * weight(term, input) *
                         (at.cwiseAbs2().dot(sums) - at.dot(slopes * at));
    }
  }
  gradient[inputs + terms] = noise() * factor.matrix().trace();
  return log_likelihood();
}

GaussianProcess::Parameters GaussianProcess::fit(
    const Eigen::MatrixXd& x,
    const Eigen::VectorXd& y,
    const std::vector<Term>& terms) {
  constexpr int kSteps = 60;
  const Eigen::Index inputs = x.cols();
  const auto count = static_cast<Eigen::Index>(terms.size());
  const Eigen::Index size = inputs + count + 1;
  Eigen::VectorXd mean = Eigen::VectorXd::Constant(size, kLengthMean);
  Eigen::VectorXd spread = Eigen::VectorXd::Constant(size, kLengthSpread);
  for (Eigen::Index term = 0; term < count; ++term) {
    mean[inputs + term] =
        std::log(terms[static_cast<std::size_t>(term)].variance);
    spread[inputs + term] = kVarianceSpread;
  }
  mean[size - 1] = kNoiseMean;
  spread[size - 1] = kNoiseSpread;

  Eigen::VectorXd at = mean;
  Eigen::VectorXd best = at;
  double best_density = -INFINITY;
  Eigen::VectorXd steps = Eigen::VectorXd::Constant(size, 0.2);
  Eigen::VectorXd before = Eigen::VectorXd::Zero(size);
  for (int step = 0; step < kSteps; ++step) {
    Eigen::VectorXd gradient;
    const Eigen::VectorXd from_mean = (at - mean).cwiseQuotient(spread);
    const double density = GaussianProcess(x, y, terms, unpack(at, inputs))
                               .log_likelihood(gradient) -
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
  return unpack(best, inputs);
}

GaussianProcess::Prediction GaussianProcess::predict(
    const Eigen::MatrixXd& at) const {
  Prediction result;
  Eigen::MatrixXd half = kernel_to(at.transpose());
  result.mean = half.transpose() * weights_;
  cholesky_.matrixL().solveInPlace(half);
  result.variance =
      (variances_.sum() - half.colwise().squaredNorm().transpose().array())
          .max(0.0);
  return result;
}

}  // namespace einforge::search
