#pragma once

#include <torch/types.h>

namespace einforge::ops {

struct ResidualNorm {
  torch::Tensor sum;     // (..., width), the dtype of x
  torch::Tensor normed;  // (..., width), in autocast's dtype where that is on
};

// What stands between the layers of a transformer, whose next layers read
// `normed` and whose stream goes on as `sum`:
//
//   sum = x + scale branch,   normed = layer_norm(sum, gain, bias, epsilon)
//
// One kernel forward and two backward where CUDA's autocast is bfloat16, x
// float32 and branch bfloat16; else torch's operators.
//
// @param x (..., width)
// @param branch of the size of x, or undefined: then sum is x
// @param gain (width)
// @param bias (width) or undefined
// Differentiable in all tensors.
// Source: arXiv 1607.06450.
ResidualNorm residual_norm(
    const torch::Tensor& x,
    const torch::Tensor& branch,
    double scale,
    const torch::Tensor& gain,
    const torch::Tensor& bias,
    double epsilon);

}  // namespace einforge::ops
