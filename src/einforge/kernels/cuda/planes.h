#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

// Rows of features to planes of a few columns and back, which batched matmuls
// want of an index that is innermost in a row: plane (o, l) has columns
// (token, c), where a row is
//
//   (columns, outer, lanes) or, without `columns_first`, (outer, columns,
//   lanes)
//
// Moves every byte once each way.
namespace einforge::kernels::cuda {

struct PlaneShape {
  int64_t tokens = 0;
  int outer = 1;
  int lanes = 1;    // of stride 1 in a row
  int columns = 1;  // of stride 1 in a plane
  bool columns_first = true;
  // Which plane: o outer_plane + l lane_plane.
  int outer_plane = 0;
  int lane_plane = 0;

  [[nodiscard]] constexpr int64_t row() const {
    return static_cast<int64_t>(outer) * lanes * columns;
  }
};

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
