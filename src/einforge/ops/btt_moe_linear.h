#pragma once

#include <torch/types.h>

#include <array>
#include <tuple>

#include "einforge/structure/structure.h"

namespace einforge::ops {

// A mixture of E two-core einsum layers, of which each token takes k; only
// those are computed. Registered as torch.ops.einforge.btt_moe_linear:
//
//   y[t] = sum_j gates[t,j] einsum_linear(x[t], core_a[e], core_b[e]),
//          e = experts[t,j]
//
// Any sizes are allowed: those of BTT (n_beta = n_delta = 1) give the paper's
// BTT-MoE, n_gamma = n_phi = 1 beside them a mixture of low-rank layers. No
// token is dropped, however uneven the choice; experts that nobody takes cost
// nothing.
//
// Cores may have any strides; the layouts that cost no copy are those of
// expert_core_a_layout() and expert_core_b_layout().
//
// @param x (..., d_in), float32, float64 or bfloat16 (float16 on CUDA); its
//   leading dimensions make T tokens, which may be 0
// @param core_a (E, n_alpha, n_gamma, n_delta, n_phi, n_rho), the dtype of x:
//   E cores of einsum_linear, stacked
// @param core_b (E, n_beta, n_gamma, n_epsilon, n_phi, n_rho), the dtype of x
// @param experts (T, k), int32 or int64, in [0, E), distinct in a row; on
//   CUDA the values are not checked
// @param gates (T, k), float32 (float64 where x is)
// @return (..., d_out), the dtype of x
// @throw c10::Error when a shape, dtype or device does not fit
// FLOPs: 2 k macs(expert) a row of x; backward twice that, and the first
// contraction once more.
// Differentiable once in x, both cores and the gates; saves the operands and
// no intermediate. Runs in autocast's dtype, the gates apart. Deterministic;
// on CUDA it does not wait for the device, so that graphs can hold it.
// Source: arXiv 2410.02117, section 6.
torch::Tensor btt_moe_linear(
    const torch::Tensor& x,
    const torch::Tensor& core_a,
    const torch::Tensor& core_b,
    const torch::Tensor& experts,
    const torch::Tensor& gates);

// Its gradients, registered as torch.ops.einforge.btt_moe_linear_backward.
//
// @param grad (..., d_out), of the output
// @param output_mask which of the four to compute
// @return gradients of x, core_a, core_b (zero for experts that nobody took)
//   and the gates; those not asked for are tensors of size (0)
// @throw c10::Error when a shape, dtype or device does not fit
std::tuple<torch::Tensor, torch::Tensor, torch::Tensor, torch::Tensor>
btt_moe_linear_backward(
    const torch::Tensor& grad,
    const torch::Tensor& x,
    const torch::Tensor& core_a,
    const torch::Tensor& core_b,
    const torch::Tensor& experts,
    const torch::Tensor& gates,
    std::array<bool, 4> output_mask);

// The sizes of one expert.
//
// @throw c10::Error when the cores are not six-dimensional, have no or
//   different numbers of experts, or make no layer
structure::Sizes expert_sizes(
    const torch::Tensor& core_a, const torch::Tensor& core_b);

// The cores with their memory in the order that the operator reads without a
// copy: one expert after the other, each in the layout of core_a_layout() and
// core_b_layout(). Shapes and values are unchanged.
torch::Tensor expert_core_a_layout(
    const torch::Tensor& core, const structure::Sizes& sizes);
torch::Tensor expert_core_b_layout(
    const torch::Tensor& core, const structure::Sizes& sizes);

}  // namespace einforge::ops
