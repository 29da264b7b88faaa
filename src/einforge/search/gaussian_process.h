#pragma once

#include <Eigen/Cholesky>
#include <Eigen/Core>
#include <cstddef>
#include <vector>

namespace einforge::search {

// Gaussian process regression. The covariance is a sum of terms, each a Matern
// 5/2 kernel of some of the inputs with a variance of its own; every input has
// a length scale (automatic relevance determination), which terms share; beside
// them independent noise. Inputs should range over about one, values over about
// one about zero.
// Sources: Rasmussen and Williams, Gaussian Processes for Machine Learning,
// chapters 2, 4 and 5; Duvenaud, Nickisch and Rasmussen, arXiv 1112.4394 (sums
// of terms).
class GaussianProcess {
 public:
  struct Term {
    // None: a constant.
    std::vector<Eigen::Index> inputs;
    // 1 between points whose inputs are the same and 0 between others, in place
    // of Matern.
    bool exact = false;
    // Prior mean of its variance.
    double variance = 1;
  };

  struct Parameters {
    // (inputs,). A term of n inputs takes root n / 2 times the length.
    Eigen::VectorXd log_lengths;
    Eigen::VectorXd log_variances;  // (terms,)
    double log_noise = -4;          // of the variance of the noise
  };

  // @param x (observations, inputs)
  // @param y (observations,)
  GaussianProcess(
      const Eigen::MatrixXd& x,
      Eigen::VectorXd y,
      std::vector<Term> terms,
      Parameters parameters);

  // The parameters of the largest posterior density under log-normal priors,
  // climbed to from the priors' means: the same for the same data.
  // Source: Blum and Riedmiller, Optimization of Gaussian Process
  // Hyperparameters using Rprop, ESANN 2013.
  static Parameters fit(
      const Eigen::MatrixXd& x,
      const Eigen::VectorXd& y,
      const std::vector<Term>& terms);

  // log p(y) under the parameters.
  double log_likelihood() const;
  // The same and its derivatives by log_lengths, log_variances and log_noise.
  double log_likelihood(Eigen::VectorXd& gradient) const;

  // The value to come at each point, without noise.
  struct Prediction {
    Eigen::VectorXd mean;      // (points,)
    Eigen::VectorXd variance;  // (points,)
  };
  // @param at (points, inputs)
  Prediction predict(const Eigen::MatrixXd& at) const;

  double noise() const;  // variance

 private:
  // What a term divides the square of an input's difference by, inverted.
  double weight(std::size_t term, Eigen::Index input) const;
  // Of the observations to points, (inputs, points): a term's distances times
  // the root of 5, whether its inputs are the same, and its kernel without its
  // variance; all are (observations, points).
  Eigen::ArrayXXd distances(std::size_t term, const Eigen::MatrixXd& at) const;
  Eigen::ArrayXXd same(std::size_t term, const Eigen::MatrixXd& at) const;
  Eigen::ArrayXXd kernel(std::size_t term, const Eigen::MatrixXd& at) const;
  Eigen::MatrixXd kernel_to(const Eigen::MatrixXd& at) const;

  std::vector<Term> terms_;
  Eigen::MatrixXd x_;  // (inputs, observations)
  Eigen::VectorXd y_;  // (observations,)
  Parameters parameters_;
  Eigen::ArrayXd variances_;  // (terms,)
  Eigen::LLT<Eigen::MatrixXd> cholesky_;
  Eigen::VectorXd weights_;  // K^-1 y
};

}  // namespace einforge::search
