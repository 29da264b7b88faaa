#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "einforge/kernels/cuda/btt_linear.h"
#include "einforge/kernels/cuda/routed_rows.h"

// The gradients of the cores of a block-tensor-train layer on CUDA: bfloat16
// in and out, sums over tokens in float32, bitwise the same on every run.
//
//   dA[a,g,f,r] = sum_t  x[t,a,g] dz[t,g,r,f]
//   dB[e,g,f,r] = sum_t dy[t,e,f]  z[t,f,r,g]
//
// Both are one batched product, which this header is about:
//
//   grad[b,m,(r,n)] = sum_t p[t,m,b] q[t,b,r,n]
//
// with p = x, q = dz, (b,m,r,n) = (gamma, alpha, rho, phi) for A and
//      p = dy, q = z, (b,m,r,n) = (phi, epsilon, rho, gamma) for B.
// The fused kernel writes z, and its transposed launch dz, in these orders.
namespace einforge::kernels::cuda {

struct BttWeightGradSizes {
  int batch = 1;  // gamma for A, phi for B; a multiple of 8
  int rows = 1;   // alpha for A, epsilon for B
  int rho = 1;
  int columns = 1;  // phi for A, gamma for B; rho columns a multiple of 8

  BttWeightGradSizes() = default;
  // Those of core A; those of B are those of A of the transposed layer.
  explicit BttWeightGradSizes(const BttSizes& s)
      : batch(s.gamma), rows(s.alpha), rho(s.rho), columns(s.phi) {}
};

struct BttWeightGradLaunch {
  const __nv_bfloat16* p = nullptr;  // (tokens, rows, batch)
  int64_t p_stride = 0;              // of a token, a multiple of 8
  const __nv_bfloat16* q = nullptr;  // (tokens, batch, rho, columns)
  int64_t tokens = 0;                // above 0
  void* workspace = nullptr;         // of btt_weight_grad_bytes()
  __nv_bfloat16* grad = nullptr;
  // Of the core, with `phi` the stride of a column and `gamma` that of a
  // batch: A's own; B's with gamma and phi exchanged.
  BttCores::Strides strides;
};

[[nodiscard]] bool btt_weight_grad_supports(
    const BttWeightGradSizes& sizes, const DeviceLimits& limits);

// Bytes of the partial sums: float32, one core for each split of the tokens.
// The number of splits depends on sizes, tokens and device only.
[[nodiscard]] size_t btt_weight_grad_bytes(
    const BttWeightGradSizes& sizes,
    int64_t tokens,
    const DeviceLimits& limits);

[[nodiscard]] cudaError_t btt_weight_grad(
    const BttWeightGradSizes& sizes,
    const BttWeightGradLaunch& launch,
    const DeviceLimits& limits,
    cudaStream_t stream);

// Partial sums of one core or both, to be reduced in a fixed order.
struct BttPartials {
  struct Core {
    BttWeightGradSizes sizes;
    const float* sums = nullptr;  // (slots, batch, rows, rho, columns)
    __nv_bfloat16* grad = nullptr;
    BttCores::Strides strides;  // as in BttWeightGradLaunch
    int64_t expert_stride = 0;
  };
  Core cores[2];
  int splits = 1;
  // Of a mixture (offsets not null): splits had contiguous chunks of its tiles
  // of 16 rows, and slot split + e has what a split gave to expert e. Else the
  // slots are the splits.
  RoutedRows rows;
};

[[nodiscard]] cudaError_t btt_sum_partials(
    const BttPartials& partials,
    const DeviceLimits& limits,
    cudaStream_t stream);

}  // namespace einforge::kernels::cuda
