#pragma once

#include "einforge/kernels/cpu/einsum_linear.h"
#include "einforge/ops/btt_moe_table.h"
#include "einforge/ops/kernel_table.h"

namespace einforge::ops {

// "cpu_tiled": kernels/cpu/einsum_linear.h. Any sizes, float32; bfloat16 and
// float16 are computed in float32.
EinsumLinearKernel cpu_tiled_kernel();

// The same for some of the tokens, as an expert has them.
namespace tiled {

// Writes the rows of y, or adds to them.
void forward(
    const EinsumLinearProblem& problem,
    const torch::Tensor& x,
    const torch::Tensor& core_a,
    const torch::Tensor& core_b,
    const std::optional<torch::Tensor>& bias,
    const kernels::cpu::EinsumRows& rows,
    const torch::Tensor& y);

// @param grad_x whose rows are written or added to; undefined where they are
// not asked for
// @param grad_scale (tokens of the problem), of rows.scale; or null
EinsumLinearGradients backward(
    const EinsumLinearProblem& problem,
    const torch::Tensor& grad,
    const torch::Tensor& x,
    const torch::Tensor& core_a,
    const torch::Tensor& core_b,
    const GradientMask& mask,
    const kernels::cpu::EinsumRows& rows,
    const torch::Tensor& grad_x,
    float* grad_scale);

}  // namespace tiled

// "cpu_tiled" of mixtures: one expert after the other, whose tokens are read
// and written where they lie.
BttMoeKernel cpu_tiled_moe_kernel();

}  // namespace einforge::ops
