#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

// The router of a mixture of experts: scores and the choice. x is bfloat16;
// weights, scores and gates are float32 and are computed so. Gradients are in
// moe_router_backward.h.
namespace einforge::kernels::cuda {

// d a multiple of 8, at most kMoeExperts experts.
[[nodiscard]] bool moe_router_supports(int experts, int d);

struct MoeRouteLaunch {
  const float* logits = nullptr;  // (tokens, experts)
  const float* bias = nullptr;    // (experts), for the choice only, or null
  int64_t tokens = 0;
  int experts = 1;
  int active = 1;              // at most kMoeActive
  bool softmax_first = false;  // gates are shares of all, not of the chosen
  int32_t* chosen = nullptr;   // (tokens, active), the best first
  float* gates = nullptr;      // (tokens, active)
};

// Of equal scores the lower number wins; NaN counts as highest.
[[nodiscard]] cudaError_t moe_route(
    const MoeRouteLaunch& launch, cudaStream_t stream);

struct MoeLogitsLaunch {
  const __nv_bfloat16* x = nullptr;  // (tokens, d)
  const float* weight = nullptr;     // (experts, d)
  int d = 0;
  void* workspace = nullptr;  // of moe_logits_bytes()
  float* logits = nullptr;    // (tokens, experts) = x weight^T
  // Tokens and experts; with `chosen` not null the choice too, as of
  // moe_route(). Its `logits` is not read.
  MoeRouteLaunch route;
};

// Bytes of the weight as three bfloat16 matrices, whose sum it is.
[[nodiscard]] size_t moe_logits_bytes(int experts, int d);

[[nodiscard]] cudaError_t moe_logits(
    const MoeLogitsLaunch& launch, cudaStream_t stream);

}  // namespace einforge::kernels::cuda
