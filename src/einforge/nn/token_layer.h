#pragma once

#include <optional>

#include "einforge/nn/layer.h"
#include "einforge/ops/moe_routing.h"
#include "einforge/ops/unbiased.h"

namespace einforge::nn {

// A layer that maps the features of each token by themselves: a linear layer,
// or a mixture of them.
class TokenLayer : public Layer {
 public:
  // @param x (..., d_in); its leading dimensions make T tokens
  // @param routing of the T tokens, where a mixture of experts has no router of
  //   its own; other layers ignore it
  // @return (..., d_out)
  virtual torch::Tensor forward(
      const torch::Tensor& x,
      const std::optional<ops::MoeRouting>& routing = std::nullopt) = 0;

  // The same for a reader that adds the bias as it reads: a layer may leave it
  // to that, or not.
  virtual ops::Unbiased forward_unbiased(
      const torch::Tensor& x,
      const std::optional<ops::MoeRouting>& routing = std::nullopt) {
    return {forward(x, routing), {}};
  }
};

}  // namespace einforge::nn
