#include "einforge/kernels/cuda/column_sums.h"

#include <algorithm>

#include "einforge/kernels/cuda/ceil_div.h"
#include "einforge/kernels/cuda/ptx.cuh"

namespace einforge::kernels::cuda {

namespace {

constexpr int kVector = 8;  // columns of a lane
constexpr int kColumns = 32 * kVector;
constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;
constexpr int kRows = 4 * kWarps;  // that a block should have at least
constexpr int kMostBlocks = 1024;
constexpr int kMostSplits = 512;

int splits_for(int64_t rows, int width) {
  const auto tiles = static_cast<int>(ceil_div(width, kColumns));
  const int most = std::clamp(kMostBlocks / tiles, 1, kMostSplits);
  return static_cast<int>(std::min<int64_t>(most, ceil_div(rows, kRows)));
}

// A block has kColumns columns (x) of every gridDim.y-th group of kWarps rows;
// a warp has a row of them.
__global__ void __launch_bounds__(kThreads) column_sums_partials(
    const uint4* __restrict__ matrix,
    int64_t rows,
    int vectors,
    float* __restrict__ partials) {
  __shared__ float sums[kWarps][kColumns];
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int vector = static_cast<int>(blockIdx.x) * 32 + lane;
  float sum[kVector] = {};
  if (vector < vectors) {
#pragma unroll 4
    for (int64_t row = static_cast<int64_t>(blockIdx.y) * kWarps + warp;
         row < rows;
         row += static_cast<int64_t>(gridDim.y) * kWarps) {
      const uint4 v = matrix[row * vectors + vector];
      ptx::add_pair(sum[0], sum[1], v.x);
      ptx::add_pair(sum[2], sum[3], v.y);
      ptx::add_pair(sum[4], sum[5], v.z);
      ptx::add_pair(sum[6], sum[7], v.w);
    }
  }
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    sums[warp][lane * kVector + i] = sum[i];
  }
  __syncthreads();
  const int column = static_cast<int>(threadIdx.x);
  const int width = vectors * kVector;
  const int at = static_cast<int>(blockIdx.x) * kColumns + column;
  if (at < width) {
    float total = 0.0F;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      total += sums[w][column];
    }
    partials[static_cast<int64_t>(blockIdx.y) * width + at] = total;
  }
}
static_assert(kThreads == kColumns);

// A block has 32 columns, a warp every 32nd row of them.
template <typename Sum>
__global__ void __launch_bounds__(1024) column_sums_few(
    const float* __restrict__ matrix,
    int rows,
    int width,
    Sum* __restrict__ result) {
  __shared__ float sums[32][33];
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int first = static_cast<int>(blockIdx.x) * 32;
  float sum = 0.0F;
  if (first + lane < width) {
#pragma unroll 4
    for (int row = warp; row < rows; row += 32) {
      sum += matrix[static_cast<int64_t>(row) * width + first + lane];
    }
  }
  sums[warp][lane] = sum;
  __syncthreads();
  sum = sums[lane][warp];
#pragma unroll
  for (int hop = 1; hop < 32; hop *= 2) {
    sum += __shfl_xor_sync(0xFFFFFFFFU, sum, hop);
  }
  if (lane == 0 && first + warp < width) {
    result[first + warp] = static_cast<Sum>(sum);
  }
}

}  // namespace

bool column_sums_supports(int64_t width) {
  return width > 0 && width % kVector == 0;
}

size_t column_sums_bytes(int width) {
  return sizeof(float) * kMostSplits * static_cast<size_t>(width);
}

template <typename Sum>
cudaError_t column_sums(
    const float* matrix, int rows, int width, Sum* sums, cudaStream_t stream) {
  column_sums_few<<<ceil_div(width, 32), 1024, 0, stream>>>(
      matrix, rows, width, sums);
  return cudaGetLastError();
}

template <typename Sum>
cudaError_t column_sums(
    const __nv_bfloat16* matrix,
    int64_t rows,
    int width,
    void* workspace,
    Sum* sums,
    cudaStream_t stream) {
  if (!column_sums_supports(width) || rows <= 0) {
    return cudaErrorInvalidValue;
  }
  auto* partials = static_cast<float*>(workspace);
  const int splits = splits_for(rows, width);
  const dim3 grid(ceil_div(width, kColumns), static_cast<unsigned>(splits));
  column_sums_partials<<<grid, kThreads, 0, stream>>>(
      reinterpret_cast<const uint4*>(matrix), rows, width / kVector, partials);
  return column_sums(partials, splits, width, sums, stream);
}

template cudaError_t column_sums(const float*, int, int, float*, cudaStream_t);
template cudaError_t column_sums(
    const float*, int, int, __nv_bfloat16*, cudaStream_t);
template cudaError_t column_sums(
    const __nv_bfloat16*, int64_t, int, void*, float*, cudaStream_t);
template cudaError_t column_sums(
    const __nv_bfloat16*, int64_t, int, void*, __nv_bfloat16*, cudaStream_t);

}  // namespace einforge::kernels::cuda
