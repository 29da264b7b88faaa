#include "einforge/ops/einsum_linear.h"

#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include <array>

#include "einforge/ops/cuda/btt_linear.h"
#include "einforge/ops/cuda/fastest.h"
#include "einforge/ops/cuda/kronecker_linear.h"
#include "einforge/ops/cuda/strided_bmm.h"
#include "einforge/ops/kernel_table.h"
#include "einforge/ops/merged.h"
#include "einforge/ops/reference/einsum_linear.h"

namespace einforge::ops {

namespace {

template <EinsumLinearKernel (*kKernel)()>
EinsumLinearKernel where_fastest() {
  EinsumLinearKernel kernel = kKernel();
  kernel.preferred = [](const EinsumLinearProblem& problem) {
    return is_fastest(problem, kKernel().name);
  };
  return kernel;
}

// Products with x and dy by the fused kernels, the cores' gradients by way of
// the dense matrix's: of a rank above 1 the fused ones make z and dz anew for
// each r, which can take longer than a product of dense size.
EinsumLinearKernel fused_merged_kernel() {
  return {
      .name = "fused_merged",
      .supports =
          [](const EinsumLinearProblem& problem) {
            return problem.sizes.rho > 1 &&
                   fused_btt_kernel().supports(problem) &&
                   merged_kernel().supports(problem);
          },
      .forward = fused_btt_kernel().forward,
      .backward =
          [](const EinsumLinearProblem& problem,
             const torch::Tensor& grad,
             const torch::Tensor& x,
             const torch::Tensor& core_a,
             const torch::Tensor& core_b,
             const GradientMask& mask) {
            EinsumLinearGradients result = fused_btt_kernel().backward(
                problem,
                grad,
                x,
                core_a,
                core_b,
                {mask[0], false, false, mask[3]});
            if (mask[1] || mask[2]) {
              const EinsumLinearGradients cores = merged_kernel().backward(
                  problem,
                  grad,
                  x,
                  core_a,
                  core_b,
                  {false, mask[1], mask[2], false});
              result.core_a = cores.core_a;
              result.core_b = cores.core_b;
            }
            return result;
          }};
}

}  // namespace

std::span<const EinsumLinearKernel> cuda_kernels() {
  static const std::array table{
      where_fastest<fused_btt_kernel>(),
      where_fastest<fused_merged_kernel>(),
      where_fastest<two_pass_btt_kernel>(),
      where_fastest<kronecker_kernel>(),
      where_fastest<strided_kernel>(),  // of those not measured, everything
      where_fastest<merged_kernel>(),
      bmm_kernel()};
  return table;
}

namespace {

torch::Tensor forward(
    const torch::Tensor& x,
    const torch::Tensor& core_a,
    const torch::Tensor& core_b,
    const std::optional<torch::Tensor>& bias) {
  const c10::DeviceGuard guard(x.device());
  return run_forward(cuda_kernels(), x, core_a, core_b, bias);
}

std::tuple<torch::Tensor, torch::Tensor, torch::Tensor, torch::Tensor> backward(
    const torch::Tensor& grad,
    const torch::Tensor& x,
    const torch::Tensor& core_a,
    const torch::Tensor& core_b,
    std::array<bool, 4> output_mask) {
  const c10::DeviceGuard guard(x.device());
  return run_backward(cuda_kernels(), grad, x, core_a, core_b, output_mask);
}

}  // namespace

TORCH_LIBRARY_IMPL(einforge, CUDA, m) {
  m.impl("einsum_linear", TORCH_FN(forward));
  m.impl("einsum_linear_backward", TORCH_FN(backward));
}

}  // namespace einforge::ops
