#pragma once

#include <torch/types.h>

#include "einforge/ops/ffn.h"

namespace einforge::ops::fused {

// Whether ffn() below takes tensors like these: bfloat16, perhaps by autocast,
// on a Hopper GPU, sizes that have kernels, of backward too unless gradients
// are off. Compiles them, which takes seconds when they are not in the cache.
bool takes_ffn(const torch::Tensor& x, const FfnProblem& problem);

// Whether it is measured to be faster than the layers one after the other.
bool ffn_is_fastest(const torch::Tensor& x, const FfnProblem& problem);

// @param x (..., d_in), bfloat16 as all others
torch::Tensor ffn(
    const torch::Tensor& x, const FfnLayer& in, const FfnLayer& out);

}  // namespace einforge::ops::fused
