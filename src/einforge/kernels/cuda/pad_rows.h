#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

// Rows of a length that is no multiple of eight, with zeros at their end or
// without. Both sides are contiguous and aligned to 16 bytes.
namespace einforge::kernels::cuda {

struct PadLaunch {
  const __nv_bfloat16* from = nullptr;
  __nv_bfloat16* to = nullptr;
  int64_t rows = 0;
  int inner = 1;   // elements of a row
  int padded = 8;  // of a padded row, a multiple of 8
};

// (rows, inner) to (rows, padded).
[[nodiscard]] cudaError_t pad_rows(
    const PadLaunch& launch, cudaStream_t stream);

// (rows, padded) to (rows, inner).
[[nodiscard]] cudaError_t unpad_rows(
    const PadLaunch& launch, cudaStream_t stream);

}  // namespace einforge::kernels::cuda
