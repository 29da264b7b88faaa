#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

// The router of a mixture of experts: scores, the choice, and their gradients.
// x is bfloat16; weights, scores and gates are float32 and are computed so.
namespace einforge::kernels::cuda {

// d a multiple of 32; at most 64 experts forward and 16 backward.
[[nodiscard]] bool moe_router_supports(int experts, int d, bool backward);

// Bytes of the weight as three bfloat16 matrices, which add up to it.
[[nodiscard]] size_t moe_logits_bytes(int experts, int d);

// logits (tokens, experts) = x (tokens, d) weight^T (experts, d).
[[nodiscard]] cudaError_t moe_logits(
    const __nv_bfloat16* x,
    const float* weight,
    int64_t tokens,
    int experts,
    int d,
    void* workspace,
    float* logits,
    cudaStream_t stream);

// Bytes of the weight gradient's partial sums.
[[nodiscard]] size_t moe_logits_backward_bytes(
    int64_t tokens, int experts, int d);

// dx (tokens, d) = dlogits weight, dweight (experts, d) = dlogits^T x; null
// where not asked for.
[[nodiscard]] cudaError_t moe_logits_backward(
    const float* dlogits,
    const __nv_bfloat16* x,
    const float* weight,
    int64_t tokens,
    int experts,
    int d,
    void* workspace,
    __nv_bfloat16* dx,
    float* dweight,
    cudaStream_t stream);

struct MoeRouteLaunch {
  const float* logits = nullptr;  // (tokens, experts)
  const float* bias = nullptr;    // (experts), for the choice only, or null
  int64_t tokens = 0;
  int experts = 1;
  int active = 1;              // at most 8
  bool softmax_first = false;  // gates are shares of all, not of the chosen
  int32_t* chosen = nullptr;   // (tokens, active), the best first
  float* gates = nullptr;      // (tokens, active)
};

// Of equal scores the lower number wins; NaN counts as highest.
[[nodiscard]] cudaError_t moe_route(
    const MoeRouteLaunch& launch, cudaStream_t stream);

// dlogits (tokens, experts) from dgates (tokens, active).
[[nodiscard]] cudaError_t moe_route_backward(
    const MoeRouteLaunch& launch,
    const float* dgates,
    float* dlogits,
    cudaStream_t stream);

}  // namespace einforge::kernels::cuda
