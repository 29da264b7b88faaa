#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "einforge/kernels/cuda/routed_rows.h"

// What happens to the rows of a mixture of experts before and after its
// layers. Nothing here waits for the host, and all of it is deterministic.
namespace einforge::kernels::cuda {

// At most this many experts, and of them active.
inline constexpr int kMoeExperts = 256;
inline constexpr int kMoeActive = 8;

// Bytes of the counts that moe_dispatch works with.
[[nodiscard]] size_t moe_dispatch_bytes(int pairs, int experts);

// A stable counting sort of the pairs by expert.
//
// @param expert (pairs), in [0, experts)
// @param offsets (experts + 1), where each expert's pairs begin
// @param order (pairs)
[[nodiscard]] cudaError_t moe_dispatch(
    const int32_t* expert,
    int pairs,
    int experts,
    void* workspace,
    int32_t* offsets,
    int32_t* order,
    cudaStream_t stream);

struct MoeCombineLaunch {
  const __nv_bfloat16* rows = nullptr;  // (tokens, active, width)
  const float* gates = nullptr;         // (tokens, active)
  int64_t tokens = 0;
  int active = 1;
  int width = 0;                 // a multiple of 8
  __nv_bfloat16* sum = nullptr;  // (tokens, width) = sum_j gates rows, or null
  // With `other` (tokens, width): dots (tokens, active) = rows . other.
  const __nv_bfloat16* other = nullptr;
  float* dots = nullptr;
};

[[nodiscard]] cudaError_t moe_combine(
    const MoeCombineLaunch& launch, cudaStream_t stream);

}  // namespace einforge::kernels::cuda
