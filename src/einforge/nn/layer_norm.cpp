#include "einforge/nn/layer_norm.h"

#include <torch/types.h>

#include "einforge/ops/layer_norm.h"

namespace einforge::nn {

LayerNorm::LayerNorm(std::int64_t width, bool bias) {
  gain_ = add_parameter("gain", torch::ones({width}));
  if (bias) {
    bias_ = add_parameter("bias", torch::zeros({width}));
  }
}

torch::Tensor LayerNorm::forward(const torch::Tensor& x) {
  constexpr double kEpsilon = 1e-5;
  return ops::layer_norm(x, gain_, bias_, kEpsilon);
}

}  // namespace einforge::nn
