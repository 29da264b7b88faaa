#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "einforge/kernels/cuda/btt_linear.h"
#include "einforge/kernels/cuda/routed_rows.h"

// The core gradients of a block-tensor-train layer in one kernel: z and dz
// live on chip only. bfloat16 in and out, sums over tokens in float32,
// bitwise the same on every run.
//
//    z[t,g,f,r] = sum_a  x[t,a,g] A[a,g,f,r]
//   dz[t,g,f,r] = sum_e dy[t,e,f] B[g,e,f,r]
//   dA[a,g,f,r] = sum_t  x[t,a,g] dz[t,g,f,r]
//   dB[g,e,f,r] = sum_t dy[t,e,f]  z[t,g,f,r]
//
// For some gammas, some phis and one r this is independent of the rest, so
// blocks share nothing. (dx is the forward kernel with the cores exchanged.)
namespace einforge::kernels::cuda {

inline constexpr int kBackwardTokens = 16;  // of a tile

struct BttBackwardLaunch {
  const __nv_bfloat16* x = nullptr;   // (tokens, d_in) contiguous
  const __nv_bfloat16* dy = nullptr;  // (tokens, d_out) contiguous
  int64_t tokens = 0;                 // above 0
  int splits = 1;                     // of btt_backward_space()
  void* workspace = nullptr;
  __nv_bfloat16* da = nullptr;
  __nv_bfloat16* db = nullptr;
  BttCores::Strides da_strides;
  BttCores::Strides db_strides;
  // (d_out), the sum over tokens of dy, or none. Not of a mixture, and where
  // btt_backward_sums_bias() says so.
  __nv_bfloat16* dbias = nullptr;
  // Of a mixture (offsets not null): its pairs and their gates (tokens,
  // active), and how far its gradients' experts are apart. The cores have
  // rows.experts experts.
  RoutedRows rows;
  const float* gates = nullptr;
  int64_t da_expert = 0;
  int64_t db_expert = 0;
};

// sm_90, alpha and epsilon up to 64, gamma and phi multiples of 8, any rank.
// Clusters take alpha and epsilon as 16, 32 or 64 and 16 or 32 gammas and phis
// at once: what a layer lacks of that is zeros, which cost as much. Where alpha
// and epsilon are both above 32 it is another kernel than elsewhere. What this
// does not take, btt_weight_grad.h does.
[[nodiscard]] bool btt_backward_supports(
    const BttSizes& sizes, const DeviceLimits& limits);

// Whether launches for these sizes can have dbias.
[[nodiscard]] bool btt_backward_sums_bias(const BttSizes& sizes);

// The splits of the rows, and the bytes of their partial sums: float32, both
// cores for each split and for each expert but one.
struct BttBackwardSpace {
  int splits;
  size_t bytes;
};
// @param rows tokens, or pairs of a token and an expert
[[nodiscard]] BttBackwardSpace btt_backward_space(
    const BttSizes& sizes,
    int64_t rows,
    int experts,
    const DeviceLimits& limits);

[[nodiscard]] cudaError_t btt_backward(
    const BttSizes& sizes,
    const BttCores& cores,
    const BttBackwardLaunch& launch,
    const DeviceLimits& limits,
    cudaStream_t stream);

}  // namespace einforge::kernels::cuda
