#pragma once

#include <torch/types.h>

#include "einforge/structure/structure.h"

namespace einforge::ops {

// A layer of a feed-forward network as einsum_linear() takes it.
struct FfnLayer {
  torch::Tensor core_a;  // (n_alpha, n_gamma, n_delta, n_phi, n_rho)
  torch::Tensor core_b;  // (n_beta, n_gamma, n_epsilon, n_phi, n_rho)
  torch::Tensor bias;    // (d_out), or undefined
};

// y = out(gelu(in(x))), two einsum layers with the GELU in its tanh form
// between. Where ffn_is_fused() one kernel reads x and writes y, and the hidden
// features never lie in memory; else einsum_linear(), gelu(), einsum_linear().
//
// @param x (..., d_in), a floating dtype, which that of cores and biases is too
//   unless autocast is on
// @return (..., d_out)
// @throw c10::Error when a shape, dtype or device does not fit
// Differentiable (twice) in all tensors. Fused it saves x, cores and biases for
// backward, and computes the hidden features again.
// Source: arXiv 2410.02117, equation 3; arXiv 1606.08415.
torch::Tensor ffn(
    const torch::Tensor& x, const FfnLayer& in, const FfnLayer& out);

// What the choice of a kernel depends on beside x.
struct FfnProblem {
  structure::Sizes in;
  structure::Sizes out;
  bool in_bias = false;
  bool out_bias = false;
};

// Whether ffn() takes one kernel for x, or would for tensors like it: in
// bfloat16, by itself or autocast, on a Hopper GPU, for two block-tensor-train
// layers of rank one that cut the hidden features alike (kernels/cuda/
// fused_ffn/plan.h), where it is measured to be faster, with backward unless
// gradients are off. False where a kernel is forced.
bool ffn_is_fused(const torch::Tensor& x, const FfnProblem& problem);

}  // namespace einforge::ops
