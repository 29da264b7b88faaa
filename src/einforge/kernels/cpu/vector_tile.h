// Small matrix products and transposes on vectors of EINFORGE_VECTOR_FLOATS
// floats. Included, after that macro is set, by one file for each instruction
// set, which is compiled for it: everything is in an unnamed namespace and
// calls no inline function of another header, so that no instruction of one set
// leaks into code that another machine runs.
#ifndef EINFORGE_VECTOR_FLOATS
// Included on its own: the narrowest.
#define EINFORGE_VECTOR_FLOATS 4
#endif
#pragma once

#include <cstdint>
#include <utility>

namespace einforge::kernels::cpu {
namespace {

using Index = std::int64_t;

constexpr int kWidth = EINFORGE_VECTOR_FLOATS;
// The block of results that a product keeps in registers: kRows x kColumns
// vectors. With 32 registers 24 hold results, 4 the columns' operands and one a
// broadcast weight; with 16, 12 + 2 + 1.
constexpr int kRows = 6;
constexpr int kColumns = kWidth == 16 ? 4 : 2;

typedef float Vec __attribute__((vector_size(kWidth * 4), aligned(4)));

#define EINFORGE_INLINE inline __attribute__((always_inline))

EINFORGE_INLINE Vec load(const float* from) {
  return *reinterpret_cast<const Vec*>(from);
}

EINFORGE_INLINE void store(float* to, Vec value) {
  *reinterpret_cast<Vec*>(to) = value;
}

EINFORGE_INLINE Vec load_some(const float* from, Index count) {
  Vec value{};
  for (Index i = 0; i < count; ++i) {
    value[i] = from[i];
  }
  return value;
}

EINFORGE_INLINE void store_some(float* to, Vec value, Index count) {
  for (Index i = 0; i < count; ++i) {
    to[i] = value[i];
  }
}

// Swaps the blocks of h x h across the diagonal.
template <int h, int... lane>
EINFORGE_INLINE void swap_blocks(
    Vec (&rows)[kWidth], std::integer_sequence<int, lane...>) {
#pragma GCC unroll 16
  for (int i = 0; i < kWidth; ++i) {
    if ((i & h) == 0) {
      const Vec a = rows[i];
      const Vec b = rows[i + h];
      rows[i] = __builtin_shufflevector(
          a, b, ((lane & h) != 0 ? lane - h + kWidth : lane)...);
      rows[i + h] = __builtin_shufflevector(
          a, b, ((lane & h) != 0 ? lane + kWidth : lane + h)...);
    }
  }
}

// Transposes the square of `rows` in registers.
template <int h = 1>
EINFORGE_INLINE void transpose(Vec (&rows)[kWidth]) {
  if constexpr (h < kWidth) {
    swap_blocks<h>(rows, std::make_integer_sequence<int, kWidth>());
    transpose<2 * h>(rows);
  }
}

// Where the rows of a product go: row m is at base + (m / inner) * outer +
// (m % inner) * stride.
struct RowMap {
  Index stride;
  Index inner;
  Index outer;
};

struct RowCursor {
  float* row;
  Index left;
  RowMap map;

  EINFORGE_INLINE float* next() {
    float* const current = row;
    row += map.stride;
    if (--left == 0) {
      row += map.outer - map.inner * map.stride;
      left = map.inner;
    }
    return current;
  }
};

// results[m][c] (+)= sum_k w(m, k) x[k][c] for R rows and C vectors of columns;
// w(m, k) is w[m ldw + k] when kByRow, else w[k ldw + m].
template <int R, int C, bool kByRow, bool kAdd>
__attribute__((noinline)) void product_block(
    Index depth,
    const float* __restrict w,
    Index ldw,
    const float* __restrict x,
    Index ldx,
    float* const* results) {
  Vec sum[R][C];
#pragma GCC unroll 8
  for (int m = 0; m < R; ++m) {
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
      sum[m][c] = kAdd ? load(results[m] + c * kWidth) : Vec{};
    }
  }
  for (Index k = 0; k < depth; ++k) {
    Vec column[C];
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
      column[c] = load(x + c * kWidth);
    }
#pragma GCC unroll 8
    for (int m = 0; m < R; ++m) {
      const float weight = kByRow ? w[m * ldw] : w[m];
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) {
        sum[m][c] += weight * column[c];
      }
    }
    x += ldx;
    w += kByRow ? 1 : ldw;
  }
#pragma GCC unroll 8
  for (int m = 0; m < R; ++m) {
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
      store(results[m] + c * kWidth, sum[m][c]);
    }
  }
}

using ProductBlock =
    void (*)(Index, const float*, Index, const float*, Index, float* const*);

template <int C, bool kByRow, bool kAdd>
constexpr ProductBlock kBlocks[kRows] = {
    product_block<1, C, kByRow, kAdd>,
    product_block<2, C, kByRow, kAdd>,
    product_block<3, C, kByRow, kAdd>,
    product_block<4, C, kByRow, kAdd>,
    product_block<5, C, kByRow, kAdd>,
    product_block<6, C, kByRow, kAdd>};

// The product for all rows and any number of whole vectors of columns.
template <bool kByRow, bool kAdd>
void product(
    Index rows,
    Index depth,
    Index columns,
    const float* w,
    Index ldw,
    const float* x,
    Index ldx,
    float* results,
    RowMap map) {
  const Index blocks = (rows + kRows - 1) / kRows;
  RowCursor cursor{results, map.inner, map};
  Index row = 0;
  for (Index block = 0; block < blocks; ++block) {
    // Blocks as equal as can be: a last one of a row or two would wait for
    // its own sums.
    const Index end = rows * (block + 1) / blocks;
    const Index height = end - row;
    float* pointers[kRows];
    for (Index m = 0; m < height; ++m) {
      pointers[m] = cursor.next();
    }
    const float* weights = w + (kByRow ? row * ldw : row);
    for (Index c = 0; c < columns;) {
      const Index vectors = (columns - c) / kWidth;
      Index width = 1;
      ProductBlock run = kBlocks<1, kByRow, kAdd>[height - 1];
      if (vectors >= kColumns) {
        width = kColumns;
        run = kBlocks<kColumns, kByRow, kAdd>[height - 1];
      } else if (vectors >= 2) {
        width = 2;
        run = kBlocks<2, kByRow, kAdd>[height - 1];
      }
      run(depth, weights, ldw, x + c, ldx, pointers);
      c += width * kWidth;
      for (Index m = 0; m < height; ++m) {
        pointers[m] += width * kWidth;
      }
    }
    row = end;
  }
}

}  // namespace
}  // namespace einforge::kernels::cpu
