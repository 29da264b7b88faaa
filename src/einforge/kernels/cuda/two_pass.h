#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <span>
#include <string>

#include "einforge/kernels/cuda/btt_linear.h"
#include "einforge/kernels/cuda/routed_rows.h"
#include "einforge/kernels/cuda/two_pass/plan.h"

// A block-tensor-train layer in two passes: kernels of two_pass/, compiled for
// a layer's exact sizes, loaded and launched.
namespace einforge::kernels::cuda::two_pass {

// A kernel that was compiled from source_of(). Loaded once and for all devices.
struct LoadedKernel {
  cudaKernel_t kernel = nullptr;
};
[[nodiscard]] cudaError_t load(const std::string& cubin, LoadedKernel* kernel);

// Bytes of the packed weights of a stage, for all experts.
[[nodiscard]] size_t packed_bytes(const StageShape& shape, int experts);

// Where a core goes.
struct PackedCore {
  StageShape shape;
  void* packed = nullptr;
};

// Writes one or two cores in the order of their stages' fragments, zeros where
// the shape is larger than the layer.
//
// @param sizes the layer's own
// @param cores of which A is packed for the first stage, B for the second
[[nodiscard]] cudaError_t pack(
    std::span<const PackedCore> targets,
    const BttSizes& sizes,
    const BttCores& cores,
    cudaStream_t stream);

struct StageLaunch {
  // Activations (rows, depth, batch) and slabs (batch / 8, rows.pairs,
  // columns) of eight; or slabs (depth / 8, rows.pairs, (rho, batch)) and
  // activations (rows, columns, batch).
  const void* in = nullptr;
  void* out = nullptr;
  int64_t in_rows = 0;   // of activations
  int64_t out_rows = 0;  // of activations
  const void* weights = nullptr;
  const float* gates = nullptr;  // of each pair, or null
  const void* bias = nullptr;    // (columns, batch) bfloat16, or null
  RoutedRows rows;
  int row_divisor = 1;  // row of an activation = pair / divisor
  bool accumulate = false;
};

[[nodiscard]] cudaError_t launch(
    const LoadedKernel& kernel,
    const StageShape& shape,
    const StageLaunch& launch,
    const DeviceLimits& limits,
    cudaStream_t stream);

struct GradLaunch {
  const void* p = nullptr;  // (p_rows, rows, batch)
  int64_t p_rows = 0;
  const void* q = nullptr;       // slabs (columns / 8, pairs, (rho, batch))
  const float* gates = nullptr;  // of each pair, or null: multiplies q
  float* partials = nullptr;     // (slots, batch, rows, rho, columns)
  RoutedRows rows;
  int splits = 1;
};

[[nodiscard]] cudaError_t launch(
    const LoadedKernel& kernel,
    const GradShape& shape,
    const GradLaunch& launch,
    cudaStream_t stream);

}  // namespace einforge::kernels::cuda::two_pass
