#pragma once

#include <torch/types.h>

#include <vector>

#include "einforge/ops/unbiased.h"

namespace einforge::ops {

struct ResidualNorm {
  torch::Tensor sum;  // (..., width), the dtype of x
  // (..., width), in autocast's dtype where that is on; one for each reader.
  std::vector<torch::Tensor> normed;
};

// What stands between the layers of a transformer, whose next layers read
// `normed` and whose stream goes on as `sum`:
//
//   sum = x + scale (branch.y + branch.bias)
//   normed = layer_norm(sum, gain, bias, epsilon)
//
// One kernel forward and two backward where CUDA's autocast is bfloat16, x
// float32 and the branch bfloat16; else torch's operators. Those kernels add
// the gradients of up to four readers, in float32, and sum that of the branch's
// bias, as they pass.
//
// @param x (..., width)
// @param branch y of the size of x, or undefined: then sum is x
// @param gain (width)
// @param bias (width) or undefined
// @param readers how many layers read what is normed, above 0
// Differentiable in all tensors, twice too.
// Source: arXiv 1607.06450.
ResidualNorm residual_norm(
    const torch::Tensor& x,
    const Unbiased& branch,
    double scale,
    const torch::Tensor& gain,
    const torch::Tensor& bias,
    double epsilon,
    std::size_t readers = 1);

// Whether a layer had better leave its float32 bias to residual_norm(x, ..).
bool residual_norm_adds_bias(
    const torch::Tensor& x,
    const torch::Tensor& gain,
    const torch::Tensor& bias);

}  // namespace einforge::ops
