#pragma once

#include <cstdint>

namespace einforge::kernels::cuda {

// Rows of features as batches of a few columns, which batched matmuls want of
// an index that is innermost in a row: batch (o, l) has columns (token, c),
// where a row is
//
//   (columns, outer, inner) or, without `columns_first`, (outer, columns,
//   inner)
struct BatchedTransposeShape {
  int64_t tokens = 0;
  int outer = 1;
  int inner = 1;    // of stride 1 in a row
  int columns = 1;  // of stride 1 in a batch
  bool columns_first = true;
  // Which batch: o outer_batch + l inner_batch.
  int outer_batch = 0;
  int inner_batch = 0;

  [[nodiscard]] constexpr int64_t row() const {
    return static_cast<int64_t>(outer) * inner * columns;
  }
};

}  // namespace einforge::kernels::cuda
