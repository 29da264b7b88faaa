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
  return ops::layer_norm(x, gain_, bias_, kEpsilon);
}

ops::ResidualNorm LayerNorm::add(
    const torch::Tensor& x,
    const ops::Unbiased& branch,
    double scale,
    std::size_t readers) const {
  return ops::residual_norm(x, branch, scale, gain_, bias_, kEpsilon, readers);
}

bool LayerNorm::adds_bias(const torch::Tensor& x) const {
  return ops::residual_norm_adds_bias(x, gain_, bias_);
}

}  // namespace einforge::nn
