#include "einforge/ops/layer_norm.h"

#include <torch/types.h>

#include <tuple>

#include "einforge/ops/cuda/layer_norm.h"

namespace einforge::ops {
namespace {

using torch::Tensor;

// torch's norm, whose rows are 0 or NaN where squares leave the range of
// float32: of those a multiple whose largest element is 2^40, which has the
// same norm, since epsilon is negligible beside either variance. Only where
// looking does not wait for a device.
Tensor cpu_layer_norm(
    const Tensor& x, const Tensor& gain, const Tensor& bias, double epsilon) {
  const auto norm = [&](const Tensor& rows) {
    return torch::native_layer_norm(rows, {x.size(-1)}, gain, bias, epsilon);
  };
  const auto [y, mean, scale] = norm(x);
  const Tensor is_lost = scale.detach().gt(0).logical_not();
  if (!is_lost.any().item<bool>()) {
    return y;
  }
  const Tensor largest = x.detach().abs().amax(-1, /*keepdim=*/true);
  return std::get<0>(norm(
      x * torch::where(is_lost, 0x1p40 / largest, torch::ones_like(largest))));
}

}  // namespace

Tensor layer_norm(
    const Tensor& x, const Tensor& gain, const Tensor& bias, double epsilon) {
  if (fused::takes_layer_norm(x, gain, bias)) {
    return fused::layer_norm(x, gain, epsilon);
  }
  if (x.is_cpu() && x.dim() >= 1) {
    return cpu_layer_norm(x, gain, bias, epsilon);
  }
  return torch::layer_norm(x, {x.size(-1)}, gain, bias, epsilon);
}

}  // namespace einforge::ops
