#pragma once

#include <cuda_runtime_api.h>

#include "einforge/kernels/cuda/batched_transpose_shape.h"

// Batched transpose of rows of features: to batches of a few columns and back.
// Moves every byte once each way.
namespace einforge::kernels::cuda {

// Elements of 2 or 4 bytes; inner and columns fill vectors of 16 bytes, and a
// few columns of a row fit on chip.
[[nodiscard]] bool batched_transpose_supports(
    const BatchedTransposeShape& shape, int element_bytes);

// @param rows (tokens, shape.row()), batches (outer inner, tokens, columns),
//   both contiguous and aligned to 16 bytes
[[nodiscard]] cudaError_t rows_to_batches(
    const BatchedTransposeShape& shape,
    int element_bytes,
    const void* rows,
    void* batches,
    cudaStream_t stream);
[[nodiscard]] cudaError_t batches_to_rows(
    const BatchedTransposeShape& shape,
    int element_bytes,
    const void* batches,
    void* rows,
    cudaStream_t stream);

}  // namespace einforge::kernels::cuda
