#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

// Layer normalisation of short rows, such as those of attention's heads: a row
// is a few lanes of a warp. bfloat16 in and out, float32 between.
//
//   n = (x - mean(x)) / sqrt(var(x) + epsilon),   y = gain n
namespace einforge::kernels::cuda {

// Rows of 8 to 256 elements, a power of two.
[[nodiscard]] bool row_norm_supports(int64_t width);

struct RowNormRows {
  const __nv_bfloat16* x = nullptr;  // (rows, width), aligned to 16 bytes
  const float* gain = nullptr;       // (width)
  int64_t rows = 0;                  // above 0
  int width = 0;
  float epsilon = 0;
};

[[nodiscard]] cudaError_t row_norm(
    const RowNormRows& rows, __nv_bfloat16* y, cudaStream_t stream);

// Bytes of the partial sums of the gain's gradient.
[[nodiscard]] size_t row_norm_backward_bytes(int width);

// dx (rows, width) and dgain (width), whose sums have a fixed order.
[[nodiscard]] cudaError_t row_norm_backward(
    const RowNormRows& rows,
    const __nv_bfloat16* dy,
    void* workspace,
    __nv_bfloat16* dx,
    float* dgain,
    cudaStream_t stream);

}  // namespace einforge::kernels::cuda
