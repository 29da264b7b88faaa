#pragma once

#include <Eigen/Cholesky>
#include <Eigen/Core>
#include <vector>

namespace einforge::search {

// Gaussian process regression with a Matern 5/2 kernel, a length scale for each
// input (automatic relevance determination) and independent noise. Inputs
// should range over about one, values have zero mean and about unit variance.
// Source: Rasmussen and Williams, Gaussian Processes for Machine Learning,
// chapters 2, 4 and 5.
class GaussianProcess {
 public:
  struct Parameters {
    Eigen::VectorXd log_lengths;  // (inputs,)
    double log_variance = 0;
    double log_noise = -4;  // of the variance of the noise
  };

  // @param x (observations, inputs)
  // @param y (observations,)
  GaussianProcess(Eigen::MatrixXd x, Eigen::VectorXd y, Parameters parameters);

  // The parameters of the largest posterior density under log-normal priors,
  // climbed to from the priors' means: the same for the same data.
  // Source: Blum and Riedmiller, Optimization of Gaussian Process
  // Hyperparameters using Rprop, ESANN 2013.
  static Parameters fit(const Eigen::MatrixXd& x, const Eigen::VectorXd& y);

  // log p(y) under the parameters.
  double log_likelihood() const;
  // The same and its derivatives by log_lengths, log_variance and log_noise.
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
  double kernel(double squared_distance) const;
  // Covariances of the observations with the points, (observations, points).
  Eigen::MatrixXd kernel_to(const Eigen::MatrixXd& at) const;

  Eigen::MatrixXd x_;        // (inputs, observations), divided by the lengths
  Eigen::VectorXd y_;        // (observations,)
  Eigen::VectorXd lengths_;  // (inputs,)
  Parameters parameters_;
  Eigen::LLT<Eigen::MatrixXd> cholesky_;
  Eigen::VectorXd weights_;  // K^-1 y
};

}  // namespace einforge::search
