#pragma once

#include <torch/types.h>

#include <array>
#include <optional>
#include <tuple>

#include "einforge/structure/structure.h"

namespace einforge::ops {

// The two-core einsum layer, registered as torch.ops.einforge.einsum_linear:
//
//   y[..,d,e,f] = sum_{a,b,g,r} B[b,g,e,f,r] A[a,g,d,f,r] x[..,a,b,g] + bias
//
// The sizes are those of the cores. Cores may have any strides; the layouts
// that cost no copy are those of core_a_layout() and core_b_layout().
//
// @param x (..., d_in), float32, float64 or bfloat16 (float16 on CUDA),
//   d_in = n_alpha n_beta n_gamma, features in the order (alpha, beta, gamma)
// @param core_a (n_alpha, n_gamma, n_delta, n_phi, n_rho), the dtype of x
// @param core_b (n_beta, n_gamma, n_epsilon, n_phi, n_rho), the dtype of x
// @param bias (d_out), the dtype of x
// @return (..., d_out), d_out = n_delta n_epsilon n_phi, features in the order
//   (delta, epsilon, phi)
// @throw c10::Error when a shape, dtype or device does not fit
// FLOPs: 2 structure::macs(sizes, cheaper_order(sizes)) a row of x; backward
// twice that, and the first contraction once more.
// Differentiable (twice, through plain einsums) in x, both cores and the bias;
// saves x and the cores for backward, and no intermediate but that of low rank,
// which is small. Runs in autocast's dtype.
// Source: arXiv 2410.02117, equation 3.
torch::Tensor einsum_linear(
    const torch::Tensor& x,
    const torch::Tensor& core_a,
    const torch::Tensor& core_b,
    const std::optional<torch::Tensor>& bias = std::nullopt);

// Its gradients, registered as torch.ops.einforge.einsum_linear_backward.
//
// @param grad (..., d_out), of the output
// @param output_mask which of the four to compute
// @return gradients of x, core_a, core_b and the bias; those not asked for
//   are tensors of size (0)
// @throw c10::Error when a shape, dtype or device does not fit
std::tuple<torch::Tensor, torch::Tensor, torch::Tensor, torch::Tensor>
einsum_linear_backward(
    const torch::Tensor& grad,
    const torch::Tensor& x,
    const torch::Tensor& core_a,
    const torch::Tensor& core_b,
    std::array<bool, 4> output_mask);

// What cores A and B of these sizes start with, and are capped at, in RMS:
// structure::parametrisation(), also torch.ops.einforge.core_init_std, so that
// Python has it from here.
//
// @param sizes alpha, beta, gamma, delta, epsilon, phi, rho
// @throw c10::Error unless there are seven sizes above 0
std::tuple<double, double> core_init_std(c10::IntArrayRef sizes);

// Multiply-accumulates of a layer of these sizes for one vector, in the cheaper
// order; also torch.ops.einforge.core_macs.
//
// @throw c10::Error unless there are seven sizes above 0
std::int64_t core_macs(c10::IntArrayRef sizes);

// The sizes that two cores have together.
//
// @throw c10::Error when either is not five-dimensional or their gamma, phi
//   or rho differ
structure::Sizes core_sizes(
    const torch::Tensor& core_a, const torch::Tensor& core_b);

// The core with its memory in the order that the operator reads without a
// copy: the core contracted first (gamma, in, out, phi, rho), the other (phi,
// in, gamma, rho, out). The shape is unchanged, and so are the values; a core
// that lies so already is returned as it is.
//
// @param core (n_alpha, n_gamma, n_delta, n_phi, n_rho) for A, (n_beta,
//   n_gamma, n_epsilon, n_phi, n_rho) for B
torch::Tensor core_a_layout(
    const torch::Tensor& core, const structure::Sizes& sizes);
torch::Tensor core_b_layout(
    const torch::Tensor& core, const structure::Sizes& sizes);

}  // namespace einforge::ops
