#include "einforge/ops/gelu.h"

#include <torch/types.h>

#include "einforge/ops/cuda/gelu.h"

namespace einforge::ops {

using torch::Tensor;

Tensor gelu(const Tensor& x, const Tensor& bias) {
  if (fused::takes_gelu(x, bias)) {
    return fused::gelu(x, bias);
  }
  return torch::gelu(bias.defined() ? x + bias.to(x.scalar_type()) : x, "tanh");
}

bool gelu_adds_bias(const Tensor& x) {
  return fused::gelu_adds_bias(x);
}

}  // namespace einforge::ops
