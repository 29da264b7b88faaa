#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

// What stands between the layers of a transformer, in one pass over memory:
//
//   sum = x + scale (branch + branch_bias)
//   y   = gain (sum - mean(sum)) / sqrt(var(sum) + epsilon) + bias
//
// over the rows of a float32 stream, with branch and y in bfloat16.
namespace einforge::kernels::cuda {

// A multiple of 4, at most 4096.
[[nodiscard]] bool residual_norm_supports(int64_t width);

// Rows are aligned to 16 bytes in float32, to 8 in bfloat16.
struct ResidualNormLaunch {
  int64_t rows = 0;  // above 0
  int width = 0;
  const float* gain = nullptr;  // (width)
  float scale = 0;              // of the branch
  // Forward alone.
  const float* bias = nullptr;         // (width) or null
  const float* branch_bias = nullptr;  // (width) or null
  float epsilon = 0;
};

// @param branch (rows, width) or null, as is then `sum`, which is x
// @param moments (rows), mean and 1 / sqrt(var + epsilon), for backward
[[nodiscard]] cudaError_t residual_norm(
    const ResidualNormLaunch& launch,
    const float* x,
    const __nv_bfloat16* branch,
    float* sum,
    __nv_bfloat16* y,
    float2* moments,
    cudaStream_t stream);

// Bytes of the partial sums.
[[nodiscard]] size_t residual_norm_backward_bytes(int width);

// The gradients of y, each (rows, width), of as many readers as gave one.
struct ResidualNormReaders {
  static constexpr int kMost = 4;
  const __nv_bfloat16* dy[kMost] = {};
  int count = 0;  // 1, 3 or 4
};

struct ResidualNormGradients {
  float* x = nullptr;               // (rows, width)
  __nv_bfloat16* branch = nullptr;  // (rows, width) or null
  // (3, width): of gain, bias and, where there is a branch, its bias. Their
  // sums have a fixed order.
  float* affine = nullptr;
};

// @param dsum (rows, width), what else the sum went to, or null
[[nodiscard]] cudaError_t residual_norm_backward(
    const ResidualNormLaunch& launch,
    const float* sum,
    const float2* moments,
    const float* dsum,
    const ResidualNormReaders& readers,
    void* workspace,
    const ResidualNormGradients& gradients,
    cudaStream_t stream);

}  // namespace einforge::kernels::cuda
