#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

// Sums over the rows of a matrix, in a fixed order.
namespace einforge::kernels::cuda {

// A multiple of 8.
[[nodiscard]] bool column_sums_supports(int64_t width);

// Bytes of the partial sums.
[[nodiscard]] size_t column_sums_bytes(int width);

// @param matrix (rows, width), aligned to 16 bytes; rows above 0
// @param sums (width), float or __nv_bfloat16; summed in float
template <typename Sum>
[[nodiscard]] cudaError_t column_sums(
    const __nv_bfloat16* matrix,
    int64_t rows,
    int width,
    void* workspace,
    Sum* sums,
    cudaStream_t stream);

// Of few rows, such as partial sums: one kernel.
//
// @param matrix (rows, width)
template <typename Sum>
[[nodiscard]] cudaError_t column_sums(
    const float* matrix, int rows, int width, Sum* sums, cudaStream_t stream);

}  // namespace einforge::kernels::cuda
