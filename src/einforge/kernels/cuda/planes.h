#pragma once

#include <cuda_runtime_api.h>

#include "einforge/kernels/cuda/plane_shape.h"

// Rows of features to planes of a few columns and back. Moves every byte once
// each way.
namespace einforge::kernels::cuda {

// Elements of 2 or 4 bytes; lanes and columns fill vectors of 16 bytes, and a
// few columns of a row fit on chip.
[[nodiscard]] bool planes_support(const PlaneShape& shape, int element_bytes);

// @param rows (tokens, shape.row()), planes (outer lanes, tokens, columns),
//   both contiguous and aligned to 16 bytes
[[nodiscard]] cudaError_t rows_to_planes(
    const PlaneShape& shape,
    int element_bytes,
    const void* rows,
    void* planes,
    cudaStream_t stream);
[[nodiscard]] cudaError_t planes_to_rows(
    const PlaneShape& shape,
    int element_bytes,
    const void* planes,
    void* rows,
    cudaStream_t stream);

}  // namespace einforge::kernels::cuda
