#include "einforge/train/divergence.h"

#include <fmt/format.h>

namespace einforge::train {

std::string runaway(
    double loss, double with_routers, double untrained, std::int64_t step) {
  constexpr double kHopeless = 1e4;
  if (untrained <= 0) {
    return "";
  }
  if (loss > kHopeless * untrained) {
    return fmt::format(
        "the loss was {:.4g} by step {}, of an untrained model it is {:.4g}",
        loss,
        step,
        untrained);
  }
  if (with_routers > kHopeless * untrained) {
    return fmt::format(
        "the routers' losses, weighted by model.moe.router.balance_weight and "
        "z_weight, were {:.4g} by step {}, beside a loss of {:.4g}",
        with_routers - loss,
        step,
        loss);
  }
  return "";
}

std::string ended_worse(
    double train, double validation, double untrained, std::int64_t step) {
  constexpr double kFarAbove = 1.5;
  if (untrained > 0 && train > kFarAbove * untrained &&
      validation > kFarAbove * untrained) {
    return fmt::format(
        "the run ended at step {} with a validation loss of {:.4g}, far above "
        "the {:.4g} of an untrained model",
        step,
        validation,
        untrained);
  }
  return "";
}

}  // namespace einforge::train
