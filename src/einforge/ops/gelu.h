#pragma once

#include <torch/types.h>

namespace einforge::ops {

// The activation between two layers, with the bias of the first:
//
//   y = gelu(x + bias)
//
// in its tanh form. On CUDA one pass each way for float32 and bfloat16, in
// which the bias is added, and its gradient summed, in float32; else torch's
// operators.
//
// @param x (..., width)
// @param bias (width), or undefined for none
// @return the shape and dtype of x
// Differentiable in both, twice too.
// Source: arXiv 1606.08415.
torch::Tensor gelu(const torch::Tensor& x, const torch::Tensor& bias = {});

// Whether a layer that reads x had better leave its float32 bias to gelu().
bool gelu_adds_bias(const torch::Tensor& x);

}  // namespace einforge::ops
