#include "einforge/base/random.h"

#include <cmath>
#include <numbers>

namespace einforge::base {

double Random::normal() {
  // Box and Muller; 1 - u keeps the logarithm finite.
  const double radius = std::sqrt(-2 * std::log(1 - uniform()));
  return radius * std::cos(2 * std::numbers::pi * uniform());
}

}  // namespace einforge::base
