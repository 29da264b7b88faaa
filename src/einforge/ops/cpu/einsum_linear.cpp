#include <torch/library.h>

#include <array>

#include "einforge/ops/cpu/einsum_linear_tiled.h"
#include "einforge/ops/einsum_linear.h"
#include "einforge/ops/kernel_table.h"
#include "einforge/ops/merged.h"
#include "einforge/ops/reference/einsum_linear.h"

namespace einforge::ops {

namespace {

// The tiled kernel computes less; this is for those who ask for it.
EinsumLinearKernel merged_by_name() {
  EinsumLinearKernel kernel = merged_kernel();
  kernel.preferred = [](const EinsumLinearProblem&) { return false; };
  return kernel;
}

}  // namespace

std::span<const EinsumLinearKernel> cpu_kernels() {
  static const std::array table{
      cpu_tiled_kernel(), merged_by_name(), bmm_kernel()};
  return table;
}

namespace {

torch::Tensor forward(
    const torch::Tensor& x,
    const torch::Tensor& core_a,
    const torch::Tensor& core_b,
    const std::optional<torch::Tensor>& bias) {
  return run_forward(cpu_kernels(), x, core_a, core_b, bias);
}

std::tuple<torch::Tensor, torch::Tensor, torch::Tensor, torch::Tensor> backward(
    const torch::Tensor& grad,
    const torch::Tensor& x,
    const torch::Tensor& core_a,
    const torch::Tensor& core_b,
    std::array<bool, 4> output_mask) {
  return run_backward(cpu_kernels(), grad, x, core_a, core_b, output_mask);
}

}  // namespace

TORCH_LIBRARY_IMPL(einforge, CPU, m) {
  m.impl("einsum_linear", TORCH_FN(forward));
  m.impl("einsum_linear_backward", TORCH_FN(backward));
}

}  // namespace einforge::ops
