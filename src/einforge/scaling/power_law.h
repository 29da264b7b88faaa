#pragma once

#include <limits>
#include <optional>
#include <span>
#include <vector>

namespace einforge::scaling {

// loss = floor + scale * compute^-exponent; floor is the irreducible loss.
struct PowerLaw {
  double floor = 0;
  double log_scale = 0;  // natural logarithm
  double exponent = 0;

  double log_loss(double log_compute) const;
};

// What one law is fitted to. All of the same length, at least one point.
struct Sample {
  std::vector<double> x;  // log compute
  std::vector<double> y;  // log loss
  std::vector<double> weights;
};

struct FitOptions {
  bool with_floor = true;
  // The lowest log loss measured, where the samples do not have it: no floor
  // lies above.
  double lowest = std::numeric_limits<double>::infinity();
  // Start here alone, in place of a spread of starts: for a bootstrap.
  std::optional<std::vector<PowerLaw>> start;
};

// Fits one law a sample, all with one common floor >= 0, to log loss by
// Levenberg-Marquardt under the Huber loss (a residual beyond three times the
// robust scale counts linearly).
std::vector<PowerLaw> fit_power_laws(
    std::span<const Sample> samples, const FitOptions& options = {});

}  // namespace einforge::scaling
