#pragma once

#include <array>
#include <cstdint>
#include <string>

namespace einforge::structure {

// A point of the space of two-core einsums; see docs/structures.md.
//
//   y[d,e,f] = sum_{a,b,g,r} B[b,g,e,f,r] A[a,g,d,f,r] x[a,b,g]
//
// with x indexed (alpha, beta, gamma), y (delta, epsilon, phi) and rank rho.
// Each exponent t gives a size: n_alpha = d_in^alpha, n_delta = d_out^delta,
// n_rho = min(d_in, d_out)^rho.
// Source: arXiv 2410.02117, section 3.
struct Theta {
  double alpha = 0;
  double beta = 0;
  double gamma = 0;
  double delta = 0;
  double epsilon = 0;
  double phi = 0;
  double rho = 0;

  std::array<double, 7> values() const {
    return {alpha, beta, gamma, delta, epsilon, phi, rho};
  }
  bool operator==(const Theta&) const = default;
};

// Decimals such as 0.333333 are meant to sum to one.
inline constexpr double kSumTolerance = 1e-6;

// Throws base::InvalidInput unless every exponent is in [0, 1] and
// alpha + beta + gamma = delta + epsilon + phi = 1, to kSumTolerance.
void validate(const Theta& theta);

// The integer sizes that a layer really has.
struct Sizes {
  std::int64_t alpha = 1;
  std::int64_t beta = 1;
  std::int64_t gamma = 1;
  std::int64_t delta = 1;
  std::int64_t epsilon = 1;
  std::int64_t phi = 1;
  std::int64_t rho = 1;

  std::int64_t d_in() const { return alpha * beta * gamma; }
  std::int64_t d_out() const { return delta * epsilon * phi; }
  std::array<std::int64_t, 7> values() const {
    return {alpha, beta, gamma, delta, epsilon, phi, rho};
  }
  bool operator==(const Sizes&) const = default;
};

}  // namespace einforge::structure
