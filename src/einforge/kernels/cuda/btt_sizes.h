#pragma once

namespace einforge::kernels::cuda {

// What the two stages need to know of the sizes.
struct BttSizes {
  int alpha = 1;
  int gamma = 1;
  int epsilon = 1;
  int phi = 1;
  int rho = 1;

  [[nodiscard]] int d_in() const { return alpha * gamma; }
  [[nodiscard]] int d_out() const { return epsilon * phi; }
  // The layer that computes the gradient of x.
  [[nodiscard]] BttSizes transposed() const {
    return {epsilon, phi, alpha, gamma, rho};
  }
  bool operator==(const BttSizes&) const = default;
};

}  // namespace einforge::kernels::cuda
