#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "einforge/kernels/cuda/btt_linear.h"

// Sums of Kronecker products (gamma = phi = 1: Kronecker and Tensor-Train
// layers) on CUDA, bfloat16 in and out, float32 accumulation:
//
//   y[t,d,e] = sum_{a,b,r} A[a,d,r] B[b,e,r] x[t,a,b]
//
// x and y move through device memory once; what lies between the two products
// stays in registers. The gradient of x is the transposed layer of dy.
// docs/design/matmul_plans.md has the tiles.
namespace einforge::kernels::cuda {

struct KroneckerSizes {
  int alpha = 1;
  int beta = 1;
  int delta = 1;
  int epsilon = 1;
  int rho = 1;

  // The layer that computes the gradient of x.
  [[nodiscard]] KroneckerSizes transposed() const {
    return {delta, epsilon, alpha, beta, rho};
  }
  bool operator==(const KroneckerSizes&) const = default;
};

// A core with element strides: (alpha, delta, rho) or (beta, epsilon, rho).
struct KroneckerCore {
  const __nv_bfloat16* data = nullptr;
  int64_t in = 0;
  int64_t out = 0;
  int64_t rho = 0;

  // The same in the transposed layer.
  [[nodiscard]] constexpr KroneckerCore transposed() const {
    return {data, out, in, rho};
  }
};

struct KroneckerLaunch {
  const __nv_bfloat16* x = nullptr;     // (tokens, d_in) contiguous
  __nv_bfloat16* y = nullptr;           // (tokens, d_out) contiguous
  const __nv_bfloat16* bias = nullptr;  // (d_out) or null
  int64_t tokens = 0;                   // above 0
};

// Whether there is a kernel for these sizes whose cores fit into a block's
// shared memory. All pointers are aligned to 16 bytes, but those of cores.
[[nodiscard]] bool kronecker_supports(
    const KroneckerSizes& sizes, const DeviceLimits& limits);

[[nodiscard]] cudaError_t kronecker_forward(
    const KroneckerSizes& sizes,
    const KroneckerCore& a,
    const KroneckerCore& b,
    const KroneckerLaunch& launch,
    const DeviceLimits& limits,
    cudaStream_t stream);

// The gradients of both cores:
//
//   dA[a,d,r] = sum_{t,b} x[t,a,b] dz[t,d,b,r], dz = sum_e dy[t,d,e] B[b,e,r]
//   dB[b,e,r] = sum_{t,d} dy[t,d,e] z[t,d,b,r],  z = sum_a  x[t,a,b] A[a,d,r]
//
// Sums over tokens are in float32 and in a fixed order: the same bits on every
// run.
struct KroneckerGradLaunch {
  const __nv_bfloat16* x = nullptr;   // (tokens, d_in) contiguous
  const __nv_bfloat16* dy = nullptr;  // (tokens, d_out) contiguous
  int64_t tokens = 0;                 // above 0
  void* workspace = nullptr;          // of kronecker_grad_bytes()
  __nv_bfloat16* da = nullptr;
  __nv_bfloat16* db = nullptr;
  // Of the gradients, as in KroneckerCore (`data` is not used).
  KroneckerCore da_strides;
  KroneckerCore db_strides;
};

[[nodiscard]] bool kronecker_grad_supports(
    const KroneckerSizes& sizes, const DeviceLimits& limits);

// Bytes of the partial sums: float32, both cores for each split of the tokens.
[[nodiscard]] size_t kronecker_grad_bytes(
    const KroneckerSizes& sizes, int64_t tokens, const DeviceLimits& limits);

[[nodiscard]] cudaError_t kronecker_grad(
    const KroneckerSizes& sizes,
    const KroneckerCore& a,
    const KroneckerCore& b,
    const KroneckerGradLaunch& launch,
    const DeviceLimits& limits,
    cudaStream_t stream);

}  // namespace einforge::kernels::cuda
