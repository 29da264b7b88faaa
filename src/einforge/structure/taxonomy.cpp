#include <algorithm>
#include <cmath>

#include "einforge/structure/structure.h"

namespace einforge::structure {
namespace {

// Sums of thirds are off by a few units in the last place.
constexpr double kRounding = 1e-12;

double snap(double value, double exact) {
  return std::abs(value - exact) < kRounding ? exact : value;
}

// min(t_alpha, t_epsilon) in the cheaper order.
double cheaper_exponent(const Theta& t) {
  return std::max(std::min(t.alpha, t.epsilon), std::min(t.beta, t.delta));
}

bool ba_is_cheaper(const Theta& t) {
  return std::min(t.alpha, t.epsilon) < std::min(t.beta, t.delta);
}

}  // namespace

Taxonomy taxonomy(const Theta& t) {
  const double cheaper = cheaper_exponent(t);
  const double used = ba_is_cheaper(t) ? t.beta + t.delta : t.alpha + t.epsilon;
  return {
      snap(std::min(t.alpha + t.delta, t.beta + t.epsilon) - cheaper, 0),
      snap(1 + std::min(0.0, 1 + t.rho - used), 1),
      snap(1 + t.rho - cheaper, 1)};
}

Taxonomy taxonomy(const Structure& structure) {
  const auto in = static_cast<double>(structure.d_in);
  const auto out = static_cast<double>(structure.d_out);
  const auto cost = static_cast<double>(macs(structure));
  const auto rank = static_cast<double>(generic_rank(structure));
  const auto weights = static_cast<double>(parameters(structure));
  const double log_d = std::log(in * out) / 2;
  const double log_min = std::log(std::min(in, out));
  Taxonomy realised;
  // A width of one has no exponents: the layer is a number, as good as dense.
  if (log_d > 0) {
    realised.omega = snap(std::log(cost / weights) / log_d, 0);
    realised.nu = snap(std::log(cost) / log_d - 1, 1);
  }
  if (log_min > 0) {
    realised.psi = snap(std::log(rank) / log_min, 1);
  }
  return realised;
}

bool degenerate(const Theta& theta) {
  return theta.rho > cheaper_exponent(theta) + kRounding;
}

}  // namespace einforge::structure
