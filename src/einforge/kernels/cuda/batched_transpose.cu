#include "einforge/kernels/cuda/batched_transpose.h"

#include <algorithm>

#include "einforge/kernels/cuda/ceil_div.h"
#include "einforge/kernels/cuda/ptx.cuh"

namespace einforge::kernels::cuda {

namespace {

constexpr int kVectorBytes = 16;
constexpr int kThreads = 256;
constexpr int kTileVectors = 2048;  // 32 KB

// What a block moves: some tokens of a piece of the row, which is some columns
// of one outer or, where the row has columns first, of all.
struct TransposeTile {
  BatchedTransposeShape shape;
  int row = 0;
  int outer = 0;  // of a piece
  int columns = 0;
  int tokens = 0;
  int column_pieces = 0;
  int pieces = 0;

  // Elements of a column that lie together.
  [[nodiscard]] __host__ __device__ int column_size() const {
    return outer * shape.inner;
  }
};

// Where a vector lies in shared memory: eight that are neighbours, or 8, 16,
// 32... apart, are bank-conflict-free.
__device__ int swizzled(int vector) {
  return vector ^ ((vector >> 3 ^ vector >> 6 ^ vector >> 9) & 7);
}

// Rows pass through shared memory as they lie. On the other side a thread moves
// a square of elements: as many columns as inner elements, a vector of 16 bytes
// each, transposed in registers; neighbouring threads have neighbouring columns
// and then tokens. So a warp reads and writes whole pieces of memory on either
// side.
template <typename T, bool kToBatches>
__global__ void __launch_bounds__(kThreads) batched_transpose_kernel(
    const TransposeTile move, const T* __restrict__ from, T* __restrict__ to) {
  constexpr int kSide = kVectorBytes / static_cast<int>(sizeof(T));
  __shared__ uint4 tile[kTileVectors];
  const BatchedTransposeShape& shape = move.shape;
  const int group = static_cast<int>(blockIdx.x) / move.pieces;
  const int piece = static_cast<int>(blockIdx.x) % move.pieces;
  const int first_outer = piece / move.column_pieces;
  const int first_column = piece % move.column_pieces * move.columns;
  const int64_t first_token = static_cast<int64_t>(group) * move.tokens;
  const int columns = min(move.columns, shape.columns - first_column);
  const int tokens = static_cast<int>(
      min(static_cast<int64_t>(move.tokens), shape.tokens - first_token));
  const int vectors = columns * move.column_size() / kSide;  // of a token
  const int64_t first_row = first_token * move.row +
                            first_outer * shape.columns * shape.inner +
                            first_column * move.column_size();
  const auto for_each_vector_of_rows = [&](const auto& action) {
    const int token_step = kThreads / vectors;
    const int in_token_step = kThreads % vectors;
    int i = static_cast<int>(threadIdx.x);
    int token = i / vectors;
    int in_token = i % vectors;
    for (; token < tokens; i += kThreads) {
      action(swizzled(i), token * move.row + in_token * kSide);
      token += token_step;
      in_token += in_token_step;
      if (in_token >= vectors) {
        in_token -= vectors;
        ++token;
      }
    }
  };

  if constexpr (kToBatches) {
    for_each_vector_of_rows([&](int place, int at) {
      ptx::copy_async(
          ptx::shared_address(tile + place),
          from + first_row + at,
          /*valid=*/true);
    });
    ptx::copy_async_commit();
    ptx::copy_async_wait<0>();
    __syncthreads();
  }
  const int squares = columns / kSide;
  const int inner_squares = shape.inner / kSide;
  const int64_t batch_size = shape.tokens * shape.columns;
  const int64_t step = shape.inner_batch * batch_size;
  for (int i = static_cast<int>(threadIdx.x);
       i < squares * tokens * inner_squares * move.outer;
       i += kThreads) {
    const int column = i % squares * kSide;
    const int token = i / squares % tokens;
    const int rest = i / (squares * tokens);
    const int lane = rest % inner_squares * kSide;
    const int outer = rest / inner_squares;
    const int in_tile =
        token * vectors +
        (column * move.column_size() + outer * shape.inner + lane) / kSide;
    const int tile_step = move.column_size() / kSide;
    const int64_t in_batches =
        ((first_outer + outer) * shape.outer_batch +
         static_cast<int64_t>(lane) * shape.inner_batch) *
            batch_size +
        (first_token + token) * shape.columns + first_column + column;
    alignas(kVectorBytes) T square[kSide][kSide];
#pragma unroll
    for (int k = 0; k < kSide; ++k) {
      *reinterpret_cast<uint4*>(square[k]) =
          kToBatches
              ? tile[swizzled(in_tile + k * tile_step)]
              : *reinterpret_cast<const uint4*>(from + in_batches + k * step);
    }
#pragma unroll
    for (int k = 0; k < kSide; ++k) {
      alignas(kVectorBytes) T vector[kSide];
#pragma unroll
      for (int j = 0; j < kSide; ++j) {
        vector[j] = square[j][k];
      }
      const uint4 moved = *reinterpret_cast<const uint4*>(vector);
      if constexpr (kToBatches) {
        *reinterpret_cast<uint4*>(to + in_batches + k * step) = moved;
      } else {
        tile[swizzled(in_tile + k * tile_step)] = moved;
      }
    }
  }
  if constexpr (!kToBatches) {
    __syncthreads();
    for_each_vector_of_rows([&](int place, int at) {
      *reinterpret_cast<uint4*>(to + first_row + at) = tile[place];
    });
  }
}

// As many columns, and then tokens, as fit; no columns if not even a few do.
TransposeTile move_of(const BatchedTransposeShape& shape, int side) {
  constexpr int kMostTokens = 64;
  TransposeTile move{shape};
  move.row = static_cast<int>(shape.row());
  move.outer = shape.columns_first ? shape.outer : 1;
  const int column = move.column_size();
  const int elements = kTileVectors * side;
  move.columns = std::min(shape.columns, elements / column / side * side);
  if (move.columns > 0) {
    move.tokens = std::min(kMostTokens, elements / (move.columns * column));
    move.column_pieces =
        static_cast<int>(ceil_div(shape.columns, move.columns));
    move.pieces = move.column_pieces * (shape.outer / move.outer);
  }
  return move;
}

template <typename T, bool kToBatches>
cudaError_t launch(
    const BatchedTransposeShape& shape,
    const void* from,
    void* to,
    cudaStream_t stream) {
  if (shape.tokens == 0) {
    return cudaSuccess;
  }
  const TransposeTile move =
      move_of(shape, kVectorBytes / static_cast<int>(sizeof(T)));
  const unsigned blocks =
      ceil_div(shape.tokens, move.tokens) * static_cast<unsigned>(move.pieces);
  batched_transpose_kernel<T, kToBatches><<<blocks, kThreads, 0, stream>>>(
      move, static_cast<const T*>(from), static_cast<T*>(to));
  return cudaGetLastError();
}

template <bool kToBatches>
cudaError_t launch(
    const BatchedTransposeShape& shape,
    int element_bytes,
    const void* from,
    void* to,
    cudaStream_t stream) {
  if (!batched_transpose_supports(shape, element_bytes)) {
    return cudaErrorInvalidValue;
  }
  return element_bytes == 2
             ? launch<uint16_t, kToBatches>(shape, from, to, stream)
             : launch<uint32_t, kToBatches>(shape, from, to, stream);
}

}  // namespace

bool batched_transpose_supports(
    const BatchedTransposeShape& shape, int element_bytes) {
  if (element_bytes != 2 && element_bytes != 4) {
    return false;
  }
  const int side = kVectorBytes / element_bytes;
  return shape.inner % side == 0 && shape.columns % side == 0 &&
         shape.row() <= (int64_t{1} << 24) && move_of(shape, side).columns > 0;
}

cudaError_t rows_to_batches(
    const BatchedTransposeShape& shape,
    int element_bytes,
    const void* rows,
    void* batches,
    cudaStream_t stream) {
  return launch<true>(shape, element_bytes, rows, batches, stream);
}

cudaError_t batches_to_rows(
    const BatchedTransposeShape& shape,
    int element_bytes,
    const void* batches,
    void* rows,
    cudaStream_t stream) {
  return launch<false>(shape, element_bytes, batches, rows, stream);
}

}  // namespace einforge::kernels::cuda
