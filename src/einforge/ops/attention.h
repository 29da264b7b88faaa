#pragma once

#include <torch/types.h>

#include <cstdint>

#include "einforge/ops/unbiased.h"

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

// What attention is given: of q, k and v (batch, time, heads head_width).
struct AttentionInputs {
  Unbiased q;
  Unbiased k;
  Unbiased v;
  torch::Tensor q_gain;  // (head_width)
  torch::Tensor k_gain;
  double epsilon = 0;
  double scale = 0;
};

// Causal attention by head with LayerNorm on queries and keys:
//
//   Q = layer_norm(q, q_gain),   K = layer_norm(k, k_gain)
//   y = causal_attention(Q, K, v, scale)
//
// Where sequences have at most 128 rows and heads 64 elements of bfloat16, on
// CUDA, that is one kernel each way, which adds biases too and sums their
// gradients; else layer_norm() and causal_attention().
//
// @return (batch, time, heads head_width)
// Differentiable in all tensors, twice too.
torch::Tensor normed_attention(const AttentionInputs& inputs);

// Whether layers that read x (batch, time, ..) had better leave their float32
// biases to normed_attention().
bool normed_attention_adds_biases(
    const torch::Tensor& x, std::int64_t head_width);

}  // namespace einforge::ops
