#include "einforge/search/gaussian_process.h"

#include <gtest/gtest.h>

#include <Eigen/Dense>
#include <cmath>
#include <numbers>

#include "einforge/base/random.h"

namespace einforge::search {
namespace {

// The textbook formulas on explicit inverses and determinants.
struct Reference {
  Eigen::MatrixXd x;
  Eigen::VectorXd y;
  GaussianProcess::Parameters parameters;

  double kernel(const Eigen::VectorXd& a, const Eigen::VectorXd& b) const {
    const Eigen::VectorXd scaled =
        (a - b).array() / parameters.log_lengths.array().exp();
    const double r = std::sqrt(5.0) * scaled.norm();
    return std::exp(parameters.log_variance) * (1 + r + r * r / 3) *
           std::exp(-r);
  }
  Eigen::MatrixXd covariance() const {
    Eigen::MatrixXd k(x.rows(), x.rows());
    for (Eigen::Index i = 0; i < x.rows(); ++i) {
      for (Eigen::Index j = 0; j < x.rows(); ++j) {
        k(i, j) = kernel(x.row(i), x.row(j)) +
                  (i == j ? std::exp(parameters.log_noise) : 0.0);
      }
    }
    return k;
  }
  Eigen::VectorXd to(const Eigen::VectorXd& at) const {
    Eigen::VectorXd k(x.rows());
    for (Eigen::Index i = 0; i < x.rows(); ++i) {
      k[i] = kernel(x.row(i), at);
    }
    return k;
  }
};

Reference example() {
  base::Random random(3);
  Reference result;
  result.x.resize(7, 2);
  result.y.resize(7);
  for (Eigen::Index i = 0; i < 7; ++i) {
    result.x.row(i) << random.uniform(), random.uniform();
    result.y[i] = std::sin(3 * result.x(i, 0)) + 0.1 * random.normal();
  }
  result.parameters.log_lengths = Eigen::Vector2d(-0.5, 0.3);
  result.parameters.log_variance = 0.2;
  result.parameters.log_noise = -3;
  return result;
}

TEST(GaussianProcess, PredictsAsTheFormulas) {
  const Reference reference = example();
  const GaussianProcess process(reference.x, reference.y, reference.parameters);
  const Eigen::MatrixXd inverse = reference.covariance().inverse();
  Eigen::MatrixXd points(3, 2);
  points << 0.3, 0.8, 0.5, 0.5, 0.2, 0.1;
  const GaussianProcess::Prediction expected = process.predict(points);
  for (Eigen::Index i = 0; i < 3; ++i) {
    const Eigen::VectorXd point = points.row(i);
    const Eigen::VectorXd to = reference.to(point);
    EXPECT_NEAR(expected.mean[i], to.dot(inverse * reference.y), 1e-8);
    EXPECT_NEAR(
        expected.variance[i],
        reference.kernel(point, point) - to.dot(inverse * to),
        1e-8);
  }
}

TEST(GaussianProcess, LikelihoodAndItsGradient) {
  const Reference reference = example();
  const Eigen::MatrixXd covariance = reference.covariance();
  const double expected =
      -0.5 *
      (reference.y.dot(covariance.inverse() * reference.y) +
       std::log(covariance.determinant()) + 7 * std::log(2 * std::numbers::pi));
  Eigen::VectorXd gradient;
  const GaussianProcess process(reference.x, reference.y, reference.parameters);
  EXPECT_NEAR(process.log_likelihood(gradient), expected, 1e-7);
  EXPECT_NEAR(process.log_likelihood(), expected, 1e-7);
  // Against central differences.
  ASSERT_EQ(gradient.size(), 4);
  constexpr double kStep = 1e-5;
  for (int i = 0; i < 4; ++i) {
    const auto at = [&](double step) {
      GaussianProcess::Parameters moved = reference.parameters;
      (i < 2    ? moved.log_lengths[i]
       : i == 2 ? moved.log_variance
                : moved.log_noise) += step;
      return GaussianProcess(reference.x, reference.y, moved).log_likelihood();
    };
    EXPECT_NEAR(gradient[i], (at(kStep) - at(-kStep)) / (2 * kStep), 1e-5) << i;
  }
}

// Of a function of the first of three inputs the fit finds out which one
// matters, how noisy it is, and predicts it between the points.
TEST(GaussianProcess, FitFindsWhatMatters) {
  base::Random random(8);
  constexpr Eigen::Index kCount = 60;
  constexpr double kNoise = 0.05;
  Eigen::MatrixXd x(kCount, 3);
  Eigen::VectorXd y(kCount);
  const auto function = [](double u) { return 1.5 * std::sin(5 * u); };
  for (Eigen::Index i = 0; i < kCount; ++i) {
    x.row(i) << random.uniform(), random.uniform(), random.uniform();
    y[i] = function(x(i, 0)) + kNoise * random.normal();
  }
  const auto parameters = GaussianProcess::fit(x, y);
  EXPECT_LT(parameters.log_lengths[0] + 0.7, parameters.log_lengths[1]);
  EXPECT_LT(parameters.log_lengths[0] + 0.7, parameters.log_lengths[2]);
  EXPECT_NEAR(parameters.log_noise, 2 * std::log(kNoise), 1);
  const GaussianProcess process(x, y, parameters);
  for (int i = 0; i < 20; ++i) {
    Eigen::MatrixXd at(1, 3);
    at << 0.1 + 0.8 * random.uniform(), random.uniform(), random.uniform();
    EXPECT_NEAR(process.predict(at).mean[0], function(at(0, 0)), 0.2);
  }
  const auto again = GaussianProcess::fit(x, y);
  EXPECT_EQ(again.log_lengths, parameters.log_lengths);
}

// One observation twice, and values that are all the same.
TEST(GaussianProcess, Degenerate) {
  Eigen::MatrixXd x(3, 1);
  x << 0.5, 0.5, 0.5;
  const Eigen::VectorXd y = Eigen::VectorXd::Zero(3);
  const auto parameters = GaussianProcess::fit(x, y);
  const GaussianProcess process(x, y, parameters);
  const auto prediction = process.predict(Eigen::MatrixXd::Constant(1, 1, 0.5));
  EXPECT_NEAR(prediction.mean[0], 0, 1e-9);
  EXPECT_GE(prediction.variance[0], 0);
}

}  // namespace
}  // namespace einforge::search
