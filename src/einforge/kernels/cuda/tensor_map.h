#pragma once

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

namespace einforge::kernels::cuda {

// A matrix of bfloat16 as (columns, rows, tokens) for TMA, rows
// contiguous within a token; one copy takes a box of it. The width of the box
// in bytes (16 to 128) is the swizzle's.
struct TensorBox {
  int columns;
  int rows;
  int box_columns;
  int box_rows;
  int box_tokens;
};

[[nodiscard]] cudaError_t encode_tensor_map(
    CUtensorMap* map,
    const __nv_bfloat16* data,
    int64_t token_stride,
    int64_t tokens,
    const TensorBox& box);

}  // namespace einforge::kernels::cuda
