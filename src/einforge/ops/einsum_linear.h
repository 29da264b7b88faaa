#pragma once

#include <torch/types.h>

#include <optional>

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
// twice that. Differentiable in x, both cores and the bias; runs in
// autocast's dtype.
// Source: arXiv 2410.02117, equation 3.
torch::Tensor einsum_linear(
    const torch::Tensor& x,
    const torch::Tensor& core_a,
    const torch::Tensor& core_b,
    const std::optional<torch::Tensor>& bias = std::nullopt);

}  // namespace einforge::ops
