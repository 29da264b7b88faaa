#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "einforge/kernels/cuda/btt_linear.h"

// Causal attention over sequences of which a block has a whole head, with
// LayerNorm on queries and keys, and biases of the layers before:
//
//   Q = q_gain norm(q + q_bias),   K = k_gain norm(k + k_bias),   V = v +
//   v_bias y[t] = sum_{s <= t} softmax_s(scale Q[t] . K[s]) V[s]
//
// by head. It reads q, k and v once and writes y; backward reads those, y and
// dy and writes their gradients, with scores made again.
namespace einforge::kernels::cuda {

// Sequences of 1 to 128 rows, heads of 64 elements.
[[nodiscard]] bool short_attention_supports(int64_t time, int64_t head_width);

struct ShortAttention {
  // (batch, time, heads, 64), aligned to 16 bytes.
  const __nv_bfloat16* q = nullptr;
  const __nv_bfloat16* k = nullptr;
  const __nv_bfloat16* v = nullptr;
  // (heads, 64) or null.
  const float* q_bias = nullptr;
  const float* k_bias = nullptr;
  const float* v_bias = nullptr;
  // (64).
  const float* q_gain = nullptr;
  const float* k_gain = nullptr;
  int64_t batch = 0;
  int time = 0;
  int heads = 0;
  float scale = 0;  // above 0
  float epsilon = 0;
};

// @param y (batch, time, heads, 64)
// @param logs (batch, heads, time), for backward: of the softmax's sums, to the
//   base of 2
[[nodiscard]] cudaError_t short_attention(
    const ShortAttention& operands,
    __nv_bfloat16* y,
    float* logs,
    cudaStream_t stream);

// What forward gave, and the gradient of y.
struct ShortAttentionOutputs {
  const __nv_bfloat16* y = nullptr;
  const float* logs = nullptr;
  const __nv_bfloat16* dy = nullptr;
};

struct ShortAttentionGradients {
  // (batch, time, heads, 64).
  __nv_bfloat16* q = nullptr;
  __nv_bfloat16* k = nullptr;
  __nv_bfloat16* v = nullptr;
  float* biases = nullptr;  // (3, heads, 64), of q, k and v, or null
  float* gains = nullptr;   // (2, 64), of q and k
};

// Bytes of the partial sums.
[[nodiscard]] size_t short_attention_backward_bytes(
    const ShortAttention& operands, const DeviceLimits& limits);

// Sums have a fixed order.
[[nodiscard]] cudaError_t short_attention_backward(
    const ShortAttention& operands,
    const ShortAttentionOutputs& outputs,
    void* workspace,
    const ShortAttentionGradients& gradients,
    const DeviceLimits& limits,
    cudaStream_t stream);

}  // namespace einforge::kernels::cuda
