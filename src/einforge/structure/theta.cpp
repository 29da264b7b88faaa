#include "einforge/structure/theta.h"

#include <cmath>

#include "einforge/base/error.h"

namespace einforge::structure {

void validate(const Theta& theta) {
  constexpr std::array<const char*, 7> kNames = {
      "alpha", "beta", "gamma", "delta", "epsilon", "phi", "rho"};
  const std::array<double, 7> values = theta.values();
  for (std::size_t i = 0; i < values.size(); ++i) {
    base::check(
        values[i] >= 0 && values[i] <= 1,
        "theta: expected {} from 0 to 1; got {}",
        kNames[i],
        values[i]);
  }
  const double in = theta.alpha + theta.beta + theta.gamma;
  base::check(
      std::abs(in - 1) <= kSumTolerance,
      "theta: expected alpha + beta + gamma = 1; got {:.6g}",
      in);
  const double out = theta.delta + theta.epsilon + theta.phi;
  base::check(
      std::abs(out - 1) <= kSumTolerance,
      "theta: expected delta + epsilon + phi = 1; got {:.6g}",
      out);
}

}  // namespace einforge::structure
