#pragma once

#include <memory>

#include "einforge/models/plan.h"
#include "einforge/nn/einsum_linear.h"

namespace einforge::models {

// One layer of a planned kind.
inline std::shared_ptr<nn::EinsumLinear> make_linear(
    const LinearPlan& plan, const at::Generator& generator) {
  return std::make_shared<nn::EinsumLinear>(
      plan.structure,
      nn::EinsumLinearOptions{
          .bias = plan.bias,
          .zero = plan.zero,
          .gamma = plan.gamma,
          .base_width = plan.base_width},
      generator);
}

}  // namespace einforge::models
