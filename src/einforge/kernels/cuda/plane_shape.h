#pragma once

#include <cstdint>

namespace einforge::kernels::cuda {

// Rows of features as planes of a few columns, which batched matmuls want of an
// index that is innermost in a row: plane (o, l) has columns (token, c), where
// a row is
//
//   (columns, outer, lanes) or, without `columns_first`, (outer, columns,
//   lanes)
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

}  // namespace einforge::kernels::cuda
