#include "einforge/kernels/cuda/planes.h"

namespace einforge::kernels::cuda {

namespace {

constexpr int kVectorBytes = 16;
constexpr int kThreads = 256;
// Few enough that the rows of a block stay in its L1 cache: each sector of
// theirs is touched by several warps.
constexpr int kTokens = 4;

// A thread moves a square of elements: as many columns as lanes, a vector of
// 16 bytes each, transposed in registers. Neighbouring threads have
// neighbouring columns and then tokens, so that a warp's vectors of a plane
// are one piece of memory.
template <typename T, bool kToPlanes>
__global__ void __launch_bounds__(kThreads) planes_move(
    const PlaneShape shape, const T* __restrict__ from, T* __restrict__ to) {
  constexpr int kSide = kVectorBytes / static_cast<int>(sizeof(T));
  const int columns = shape.columns / kSide;
  const int lanes = shape.lanes / kSide;
  const int64_t row_size = shape.row();
  const int64_t plane_size = shape.tokens * shape.columns;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kTokens;
  const int work = columns * kTokens * lanes * shape.outer;
  for (int item = static_cast<int>(threadIdx.x); item < work;
       item += kThreads) {
    const int column = item % columns * kSide;
    const int64_t token = first + item / columns % kTokens;
    const int rest = item / (columns * kTokens);
    const int lane = rest % lanes * kSide;
    const int outer = rest / lanes;
    if (token >= shape.tokens) {
      continue;
    }
    const int64_t row = token * row_size + outer * shape.outer_stride +
                        column * shape.column_stride + lane;
    const int64_t plane =
        static_cast<int64_t>(
            outer * shape.outer_plane + lane * shape.lane_plane) *
            plane_size +
        token * shape.columns + column;
    const int64_t from_start = kToPlanes ? row : plane;
    const int64_t from_step =
        kToPlanes ? shape.column_stride : shape.lane_plane * plane_size;
    const int64_t to_start = kToPlanes ? plane : row;
    const int64_t to_step =
        kToPlanes ? shape.lane_plane * plane_size : shape.column_stride;
    alignas(kVectorBytes) T square[kSide][kSide];
#pragma unroll
    for (int i = 0; i < kSide; ++i) {
      *reinterpret_cast<uint4*>(square[i]) =
          *reinterpret_cast<const uint4*>(from + from_start + i * from_step);
    }
#pragma unroll
    for (int j = 0; j < kSide; ++j) {
      alignas(kVectorBytes) T vector[kSide];
#pragma unroll
      for (int i = 0; i < kSide; ++i) {
        vector[i] = square[i][j];
      }
      *reinterpret_cast<uint4*>(to + to_start + j * to_step) =
          *reinterpret_cast<const uint4*>(vector);
    }
  }
}

template <typename T, bool kToPlanes>
cudaError_t launch(
    const PlaneShape& shape, const void* from, void* to, cudaStream_t stream) {
  const int64_t blocks = (shape.tokens + kTokens - 1) / kTokens;
  if (blocks == 0) {
    return cudaSuccess;
  }
  planes_move<T, kToPlanes>
      <<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(
          shape, static_cast<const T*>(from), static_cast<T*>(to));
  return cudaGetLastError();
}

template <bool kToPlanes>
cudaError_t launch(
    const PlaneShape& shape,
    int element_bytes,
    const void* from,
    void* to,
    cudaStream_t stream) {
  if (!planes_support(shape, element_bytes)) {
    return cudaErrorInvalidValue;
  }
  return element_bytes == 2
             ? launch<uint16_t, kToPlanes>(shape, from, to, stream)
             : launch<uint32_t, kToPlanes>(shape, from, to, stream);
}

}  // namespace

bool planes_support(const PlaneShape& shape, int element_bytes) {
  if (element_bytes != 2 && element_bytes != 4) {
    return false;
  }
  const int side = kVectorBytes / element_bytes;
  return shape.lanes % side == 0 && shape.columns % side == 0 &&
         shape.row() <= (int64_t{1} << 24);
}

cudaError_t rows_to_planes(
    const PlaneShape& shape,
    int element_bytes,
    const void* rows,
    void* planes,
    cudaStream_t stream) {
  return launch<true>(shape, element_bytes, rows, planes, stream);
}

cudaError_t planes_to_rows(
    const PlaneShape& shape,
    int element_bytes,
    const void* planes,
    void* rows,
    cudaStream_t stream) {
  return launch<false>(shape, element_bytes, planes, rows, stream);
}

}  // namespace einforge::kernels::cuda
