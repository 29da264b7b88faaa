#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "einforge/kernels/cuda/btt_sizes.h"

// The fused block-tensor-train layer (beta = delta = 1) on CUDA, bfloat16 in
// and out, float32 accumulation:
//
//   stage one, for each gamma:  z[t,g,f,r] = sum_a   x[t,a,g] A[a,g,f,r]
//   stage two, for each phi:    y[t,e,f]   = sum_g,r z[t,g,f,r] B[g,e,f,r]
//
// x and y move through device memory once; z stays on chip. The gradient of x
// is the same kernel with the cores' roles exchanged (BttCores::transposed).
// docs/design/btt_kernels.md explains the tiles.
namespace einforge::kernels::cuda {

// Both cores as raw pointers, with element strides.
struct BttCores {
  struct Strides {
    int64_t in = 0;  // alpha of A, epsilon of B
    int64_t gamma = 0;
    int64_t phi = 0;
    int64_t rho = 0;

    // Those of the same core in the layer that computes the gradient of x.
    [[nodiscard]] Strides exchanged() const { return {in, phi, gamma, rho}; }
  };
  const __nv_bfloat16* a = nullptr;
  const __nv_bfloat16* b = nullptr;
  Strides a_strides;  // of A[alpha, gamma, phi, rho]
  Strides b_strides;  // of B[epsilon, gamma, phi, rho]
  // Optional device scalars that the cores are multiplied by (the RMS cap and
  // the learned gain), applied in float32 before rounding.
  const float* a_scale = nullptr;
  const float* b_scale = nullptr;
  // Of a mixture: so many cores of each, so far apart.
  int experts = 1;
  int64_t a_expert = 0;
  int64_t b_expert = 0;

  // The cores of the layer that computes the gradient of x.
  [[nodiscard]] BttCores transposed() const;
};

enum class BttKernel {
  kTile,      // weights from L2 to registers; any sizes, any architecture
  kResident,  // sm_90: weights in the registers of a cluster
};

// How a kernel is cut. kTile: a cluster of `cluster` blocks takes tiles of
// 8 n_tiles * token_groups tokens, each block a slice of gamma in stage
// one and of phi in stage two. kResident takes tiles of 16 tokens a cluster.
struct BttPlan {
  int cluster = 1;       // 1, 2, 4 or 8; above 1 needs sm_90
  int n_tiles = 4;       // of 8 tokens, of one warp's unit: 1 to 4
  int token_groups = 1;  // units side by side along the tokens
  int x_buffers = 2;     // 1 or 2 tiles of x in flight
  int warps = 8;         // 8 or 16
  BttKernel kernel = BttKernel::kTile;

  [[nodiscard]] int tile_tokens() const { return 8 * n_tiles * token_groups; }
  [[nodiscard]] std::string name() const;
  bool operator==(const BttPlan&) const = default;
};

// What a launch may use, read off the device once by its owner.
// Of a device.
struct DeviceLimits {
  int multiprocessors = 132;
  int shared_bytes = 232448;  // a block's largest dynamic shared memory
  int major = 9;  // of the architecture of our code there, 0 without any
};

struct BttLaunch {
  const __nv_bfloat16* x = nullptr;  // (tokens, d_in), rows of unit stride
  __nv_bfloat16* y = nullptr;        // (tokens, d_out), rows of unit stride
  int64_t x_stride = 0;              // of a token, a multiple of 8
  int64_t y_stride = 0;              // of a token, a multiple of 8
  int64_t tokens = 0;
  // Null, or (epsilon, phi) of btt_packed_sizes(), anything past the layer's
  // own.
  const __nv_bfloat16* bias = nullptr;
  // Null, or where z is written too: (tokens, phi, rho, gamma) contiguous.
  __nv_bfloat16* z = nullptr;
  void* packed = nullptr;  // btt_pack()'s, aligned to 16
};

// The sizes that a plan's kernel has: the layer's, or larger ones where that is
// a register-resident kernel, for which both cores are packed with zeros.
[[nodiscard]] BttSizes btt_packed_sizes(
    const BttSizes& sizes, const BttPlan& plan);

// Bytes of both cores of these sizes in the order of the matrix fragments.
[[nodiscard]] size_t btt_packed_bytes(const BttSizes& packed_sizes);

// Shared memory that btt_pack cannot do without.
[[nodiscard]] size_t btt_pack_shared_bytes(const BttSizes& sizes);

// Whether the fused kernel takes these sizes under this plan. Otherwise the
// batched-matmul path must be used.
[[nodiscard]] bool btt_supports(
    const BttSizes& sizes, const BttPlan& plan, const DeviceLimits& limits);

// The plans worth measuring for these sizes, the likely best first; empty when
// the fused kernel cannot take the sizes.
[[nodiscard]] std::vector<BttPlan> btt_plans(
    const BttSizes& sizes, int64_t tokens, const DeviceLimits& limits);

// Dynamic shared memory of one block.
[[nodiscard]] size_t btt_shared_bytes(
    const BttSizes& sizes, const BttPlan& plan);

// Writes both cores to `packed` in the fragment order of the plan's kernel, one
// expert after the other, btt_packed_bytes() of btt_packed_sizes() each.
[[nodiscard]] cudaError_t btt_pack(
    const BttSizes& sizes,
    const BttCores& cores,
    void* packed,
    cudaStream_t stream,
    const BttPlan& plan = {});

// y = BTT(x). Launch it right after btt_pack on the same stream with
// `after_pack`, and it loads x while the cores are still being packed.
[[nodiscard]] cudaError_t btt_forward(
    const BttSizes& sizes,
    const BttLaunch& launch,
    const BttPlan& plan,
    const DeviceLimits& limits,
    bool after_pack,
    cudaStream_t stream);

}  // namespace einforge::kernels::cuda
