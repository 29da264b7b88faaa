#pragma once

#include <torch/types.h>

namespace einforge::ops {

// Causal attention,
//
//   y[b,h,t] = sum_{s <= t} softmax_s(scale q[b,h,t] . k[b,h,s]) v[b,h,s],
//
// by torch's fused kernels, with gradients that are bitwise the same on every
// run. Runs in autocast's dtype.
//
// @param q, k, v (batch, heads, time, width)
// @return (batch, heads, time, width)
torch::Tensor causal_attention(
    const torch::Tensor& q,
    const torch::Tensor& k,
    const torch::Tensor& v,
    double scale);

}  // namespace einforge::ops
