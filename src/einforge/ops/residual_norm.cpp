#include "einforge/ops/residual_norm.h"

#include <torch/types.h>

#include "einforge/ops/autocast_dtype.h"
#include "einforge/ops/cuda/residual_norm.h"
#include "einforge/ops/layer_norm.h"

namespace einforge::ops {

using torch::Tensor;

ResidualNorm residual_norm(
    const Tensor& x,
    const Unbiased& branch,
    double scale,
    const Tensor& gain,
    const Tensor& bias,
    double epsilon,
    std::size_t readers) {
  if (fused::takes_residual_norm(x, branch, gain, bias)) {
    return fused::residual_norm(x, branch, scale, gain, bias, epsilon, readers);
  }
  Tensor sum = x;
  if (branch.y.defined()) {
    sum = torch::add(
        x,
        branch.bias.defined()
            ? branch.y + branch.bias.to(branch.y.scalar_type())
            : branch.y,
        scale);
  }
  return {
      sum,
      std::vector<Tensor>(
          readers, in_autocast_dtype(layer_norm(sum, gain, bias, epsilon)))};
}

bool residual_norm_adds_bias(
    const Tensor& x, const Tensor& gain, const Tensor& bias) {
  return fused::takes_residual_norm(x, {}, gain, bias);
}

}  // namespace einforge::ops
