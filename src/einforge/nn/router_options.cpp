#include "einforge/nn/router_options.h"

#include "einforge/base/error.h"

namespace einforge::nn {

void RouterOptions::validate() const {
  base::check(
      jitter >= 0 && jitter < 1,
      "router: expected jitter in [0, 1); got {}",
      jitter);
  const auto check_positive = [](const char* name, double value) {
    base::check(
        value >= 0, "router: expected {} of at least 0; got {}", name, value);
  };
  check_positive("balance_weight", balance_weight);
  check_positive("z_weight", z_weight);
  check_positive("bias_rate", bias_rate);
}

}  // namespace einforge::nn
