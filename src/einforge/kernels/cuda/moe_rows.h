#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "einforge/kernels/cuda/routed_rows.h"

// What happens to the rows of a mixture of experts before and after its
// layers. Nothing here waits for the host, and all of it is deterministic.
namespace einforge::kernels::cuda {

// At most this many experts, and of them active; of bins, as many as experts.
inline constexpr int kMoeExperts = 256;
inline constexpr int kMoeActive = 8;

// A stable counting sort of the pairs by expert and, where there is more than
// one bin for each expert, by pair % bins.
struct MoeDispatchLaunch {
  const int32_t* expert = nullptr;  // (pairs), in [0, experts)
  int pairs = 0;
  int experts = 1;
  int bins = 1;
  void* workspace = nullptr;   // of moe_dispatch_bytes()
  int32_t* offsets = nullptr;  // (experts bins + 1), where each bin begins
  int32_t* order = nullptr;    // (pairs)
  // Of the pairs, and where they go in that order; or null.
  const float* gates = nullptr;
  float* sorted_gates = nullptr;
};

[[nodiscard]] size_t moe_dispatch_bytes(int pairs, int all_bins);

[[nodiscard]] cudaError_t moe_dispatch(
    const MoeDispatchLaunch& launch, cudaStream_t stream);

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
