#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "einforge/kernels/cuda/moe_router.h"

// The gradients of a router's scores, alone or together with those of the layer
// that it routes, where moe_router_supports() it. Deterministic.
namespace einforge::kernels::cuda {

// dlogits (tokens, experts) from dgates (tokens, active).
[[nodiscard]] cudaError_t moe_route_backward(
    const MoeRouteLaunch& launch,
    const float* dgates,
    float* dlogits,
    cudaStream_t stream);

// Of the scores alone (rows null):
//
//   dx = dlogits weight, dweight = dlogits^T x
//
// With `rows`, r[t,j] the layer of expert chosen[t,j], transposed, on dy:
//
//   dgates[t,j] += r[t,j] . x[t]
//   dlogits[t]  += the gradient of the gates, from dgates
//   dx[t]        = sum_j gates[t,j] r[t,j] + dlogits[t] weight
//
// in one pass over rows, x and dx.
struct MoeRouterBackwardLaunch {
  const __nv_bfloat16* x = nullptr;  // (tokens, d)
  const float* weight = nullptr;     // (experts, d)
  int d = 0;
  const float* dlogits = nullptr;       // (tokens, experts); with rows or null
  const __nv_bfloat16* rows = nullptr;  // (tokens, active, d) or null
  const float* dgates = nullptr;        // (tokens, active) or null
  // Tokens and experts; with rows all but `bias`, and `logits` where
  // softmax_first.
  MoeRouteLaunch route;
  void* workspace = nullptr;    // of moe_router_backward_bytes()
  __nv_bfloat16* dx = nullptr;  // or null
  float* dweight = nullptr;     // or null
};

[[nodiscard]] size_t moe_router_backward_bytes(
    int64_t tokens, int experts, int d);

[[nodiscard]] cudaError_t moe_router_backward(
    const MoeRouterBackwardLaunch& launch, cudaStream_t stream);

}  // namespace einforge::kernels::cuda
