#include <limits>

#include "einforge/kernels/cuda/ceil_div.h"
#include "einforge/kernels/cuda/merge.h"
#include "einforge/kernels/cuda/vec8.cuh"

namespace einforge::kernels::cuda {

namespace {

constexpr int kVector = 8;  // elements of a lane

__device__ Vec8 load(const __nv_bfloat16* from) {
  return Vec8::load(*reinterpret_cast<const uint4*>(from));
}

__device__ void store(__nv_bfloat16* to, const Vec8& values) {
  *reinterpret_cast<uint4*>(to) = values.rounded();
}

constexpr int kMergeThreads = 128;
// Of a block, with one phi: they share the rows of one core or the other.
constexpr int kMergeRows = 4;

// A thread makes a vector of each of the block's rows.
__global__ void __launch_bounds__(kMergeThreads) merge_rows(
    const MergeSizes n,
    const __nv_bfloat16* __restrict__ a,
    const __nv_bfloat16* __restrict__ b,
    __nv_bfloat16* __restrict__ w,
    int row_blocks) {
  const int column = static_cast<int>(blockIdx.x) % row_blocks * kMergeThreads +
                     static_cast<int>(threadIdx.x);
  const int vectors = n.gamma / kVector;
  if (column >= n.alpha * n.beta * vectors) {
    return;
  }
  const int group = static_cast<int>(blockIdx.x) / row_blocks;
  const int f = group % n.phi;
  const int first = group / n.phi * kMergeRows;
  const int g = column % vectors * kVector;
  const int in_b = column / vectors % n.beta;
  const int in_a = column / (vectors * n.beta);
  const int row_a = n.alpha * n.gamma;
  const int row_b = n.beta * n.gamma;
#pragma unroll
  for (int i = 0; i < kMergeRows; ++i) {
    const int row = first + i;
    if (row >= n.delta * n.epsilon) {
      return;
    }
    const int64_t d = row / n.epsilon;
    const int64_t e = row % n.epsilon;
    const __nv_bfloat16* from_a =
        a + (d * n.phi + f) * n.rho * row_a + in_a * n.gamma + g;
    const __nv_bfloat16* from_b =
        b + (e * n.phi + f) * n.rho * row_b + in_b * n.gamma + g;
    Vec8 sum{};
#pragma unroll 4
    for (int r = 0; r < n.rho; ++r) {
      sum.add_product(load(from_a), load(from_b));
      from_a += row_a;
      from_b += row_b;
    }
    store(
        w + (static_cast<int64_t>(row) * n.phi + f) * n.d_in() +
            static_cast<int64_t>(column) * kVector,
        sum);
  }
}

}  // namespace

bool merge_supports(const MergeSizes& sizes) {
  // What the kernels count in ints.
  constexpr int64_t kMost = std::numeric_limits<int>::max();
  return sizes.gamma % kVector == 0 && sizes.d_in() * sizes.d_out() <= kMost &&
         sizes.d_in() * sizes.rho <= kMost &&
         sizes.d_out() * sizes.rho <= kMost;
}

cudaError_t merge_cores(
    const MergeSizes& n,
    const __nv_bfloat16* a,
    const __nv_bfloat16* b,
    __nv_bfloat16* w,
    cudaStream_t stream) {
  if (!merge_supports(n)) {
    return cudaErrorInvalidValue;
  }
  const unsigned row_blocks = ceil_div(n.d_in() / kVector, kMergeThreads);
  const unsigned groups =
      ceil_div(static_cast<int64_t>(n.delta) * n.epsilon, kMergeRows) *
      static_cast<unsigned>(n.phi);
  merge_rows<<<row_blocks * groups, kMergeThreads, 0, stream>>>(
      n, a, b, w, static_cast<int>(row_blocks));
  return cudaGetLastError();
}

}  // namespace einforge::kernels::cuda
