#include "einforge/ops/residual_norm.h"

#include <torch/types.h>

#include "einforge/ops/autocast_dtype.h"
#include "einforge/ops/cuda/residual_norm.h"
#include "einforge/ops/layer_norm.h"

namespace einforge::ops {

using torch::Tensor;

ResidualNorm residual_norm(
    const Tensor& x,
    const Tensor& branch,
    double scale,
    const Tensor& gain,
    const Tensor& bias,
    double epsilon) {
  if (fused::takes_residual_norm(x, branch, gain, bias)) {
    return fused::residual_norm(x, branch, scale, gain, bias, epsilon);
  }
  const Tensor sum = branch.defined() ? torch::add(x, branch, scale) : x;
  return {sum, in_autocast_dtype(layer_norm(sum, gain, bias, epsilon))};
}

}  // namespace einforge::ops
