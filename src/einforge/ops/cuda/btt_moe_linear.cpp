#include "einforge/ops/btt_moe_linear.h"

#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include <array>

#include "einforge/ops/btt_moe_table.h"
#include "einforge/ops/cuda/btt_moe_fused.h"
#include "einforge/ops/moe_low_rank.h"
#include "einforge/ops/reference/btt_moe_linear.h"

namespace einforge::ops {

std::span<const BttMoeKernel> cuda_moe_kernels() {
  static const std::array table{
      fused_moe_kernel(),
      two_pass_moe_kernel(),
      moe_low_rank_kernel(),
      moe_bmm_kernel()};
  return table;
}

namespace {

using torch::Tensor;

Tensor forward(
    const Tensor& x,
    const Tensor& core_a,
    const Tensor& core_b,
    const Tensor& experts,
    const Tensor& gates) {
  const c10::DeviceGuard guard(x.device());
  return run_moe_forward(cuda_moe_kernels(), x, core_a, core_b, experts, gates);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward(
    const Tensor& grad,
    const Tensor& x,
    const Tensor& core_a,
    const Tensor& core_b,
    const Tensor& experts,
    const Tensor& gates,
    std::array<bool, 4> output_mask) {
  const c10::DeviceGuard guard(x.device());
  return run_moe_backward(
      cuda_moe_kernels(), grad, x, core_a, core_b, experts, gates, output_mask);
}

}  // namespace

TORCH_LIBRARY_IMPL(einforge, CUDA, m) {
  m.impl("btt_moe_linear", TORCH_FN(forward));
  m.impl("btt_moe_linear_backward", TORCH_FN(backward));
}

}  // namespace einforge::ops
