#include "einforge/search/gaussian_process.h"

#include <gtest/gtest.h>

#include <Eigen/Dense>
#include <cmath>
#include <cstddef>
#include <numbers>
#include <vector>

#include "einforge/base/random.h"

namespace einforge::search {
namespace {

using Term = GaussianProcess::Term;

// The textbook formulas on explicit inverses and determinants.
struct Reference {
  Eigen::MatrixXd x;
  Eigen::VectorXd y;
  std::vector<Term> terms;
  GaussianProcess::Parameters parameters;

  double kernel(const Eigen::VectorXd& a, const Eigen::VectorXd& b) const {
    double sum = 0;
    for (std::size_t i = 0; i < terms.size(); ++i) {
      double square = 0;
      bool same = true;
      for (const Eigen::Index input : terms[i].inputs) {
        const double off =
            (a[input] - b[input]) / std::exp(parameters.log_lengths[input]);
        square += off * off * 4 / static_cast<double>(terms[i].inputs.size());
        same = same && a[input] == b[input];
      }
      const double r = std::sqrt(5.0 * square);
      const double matern = (1 + r + r * r / 3) * std::exp(-r);
      sum += std::exp(parameters.log_variances[static_cast<Eigen::Index>(i)]) *
             (terms[i].exact ? (same ? 1.0 : 0.0) : matern);
    }
    return sum;
  }
  GaussianProcess process() const { return {x, y, terms, parameters}; }
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
  result.x(6, 0) = result.x(2, 0);
  // A constant, one input, both, and whether the first is the same.
  result.terms = {{}, {{1}}, {{0, 1}}, {{0}, true}};
  result.parameters.log_lengths = Eigen::Vector2d(-0.5, 0.3);
  result.parameters.log_variances = Eigen::Vector4d(-1, -0.7, 0.2, -1.5);
  result.parameters.log_noise = -3;
  return result;
}

TEST(GaussianProcess, PredictsAsTheFormulas) {
  const Reference reference = example();
  const GaussianProcess process = reference.process();
  const Eigen::MatrixXd inverse = reference.covariance().inverse();
  Eigen::MatrixXd points(3, 2);
  points << 0.3, 0.8, reference.x(2, 0), 0.5, 0.2, 0.1;
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
  const GaussianProcess process = reference.process();
  EXPECT_NEAR(process.log_likelihood(gradient), expected, 1e-7);
  EXPECT_NEAR(process.log_likelihood(), expected, 1e-7);
  // Against central differences.
  ASSERT_EQ(gradient.size(), 7);
  constexpr double kStep = 1e-5;
  for (int i = 0; i < 7; ++i) {
    const auto at = [&](double step) {
      Reference moved = reference;
      (i < 2   ? moved.parameters.log_lengths[i]
       : i < 6 ? moved.parameters.log_variances[i - 2]
               : moved.parameters.log_noise) += step;
      return moved.process().log_likelihood();
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
  const std::vector<Term> terms = {{{0, 1, 2}}};
  const auto parameters = GaussianProcess::fit(x, y, terms);
  EXPECT_LT(parameters.log_lengths[0] + 0.7, parameters.log_lengths[1]);
  EXPECT_LT(parameters.log_lengths[0] + 0.7, parameters.log_lengths[2]);
  EXPECT_NEAR(parameters.log_noise, 2 * std::log(kNoise), 1);
  const GaussianProcess process(x, y, terms, parameters);
  for (int i = 0; i < 20; ++i) {
    Eigen::MatrixXd at(1, 3);
    at << 0.1 + 0.8 * random.uniform(), random.uniform(), random.uniform();
    EXPECT_NEAR(process.predict(at).mean[0], function(at(0, 0)), 0.2);
  }
  const auto again = GaussianProcess::fit(x, y, terms);
  EXPECT_EQ(again.log_lengths, parameters.log_lengths);
}

// What a sum of functions of single inputs is where it was never seen: the
// corner is told by the edges.
TEST(GaussianProcess, SumsReachFartherThanProducts) {
  base::Random random(9);
  constexpr Eigen::Index kCount = 40;
  Eigen::MatrixXd x(kCount, 2);
  Eigen::VectorXd y(kCount);
  const auto function = [](double u, double v) {
    return std::sin(4 * u) + std::cos(3 * v);
  };
  for (Eigen::Index i = 0; i < kCount; ++i) {
    const bool along = i % 2 == 0;
    x.row(i) << (along ? random.uniform() : 0.05 * random.uniform()),
        (along ? 0.05 * random.uniform() : random.uniform());
    y[i] = function(x(i, 0), x(i, 1)) + 0.02 * random.normal();
  }
  const auto error = [&](const std::vector<Term>& terms) {
    const auto parameters = GaussianProcess::fit(x, y, terms);
    const GaussianProcess process(x, y, terms, parameters);
    const Eigen::MatrixXd corner = Eigen::MatrixXd::Constant(1, 2, 0.9);
    return std::abs(process.predict(corner).mean[0] - function(0.9, 0.9));
  };
  const double sum = error({{}, {{0}}, {{1}}});
  EXPECT_LT(sum, 0.1);
  EXPECT_LT(sum, error({{{0, 1}}}));
}

// One observation twice, and values that are all the same.
TEST(GaussianProcess, Degenerate) {
  Eigen::MatrixXd x(3, 1);
  x << 0.5, 0.5, 0.5;
  const Eigen::VectorXd y = Eigen::VectorXd::Zero(3);
  const std::vector<Term> terms = {{}, {{0}}};
  const auto parameters = GaussianProcess::fit(x, y, terms);
  const GaussianProcess process(x, y, terms, parameters);
  const auto prediction = process.predict(Eigen::MatrixXd::Constant(1, 1, 0.5));
  EXPECT_NEAR(prediction.mean[0], 0, 1e-9);
  EXPECT_GE(prediction.variance[0], 0);
}

}  // namespace
}  // namespace einforge::search
