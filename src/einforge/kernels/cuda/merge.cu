#include <limits>

#include "einforge/kernels/cuda/blocks.h"
#include "einforge/kernels/cuda/eight.cuh"
#include "einforge/kernels/cuda/merge.h"

namespace einforge::kernels::cuda {

namespace {

constexpr int kVector = 8;  // elements of a lane

__device__ Eight load(const __nv_bfloat16* from) {
  return Eight::load(*reinterpret_cast<const uint4*>(from));
}

__device__ void store(__nv_bfloat16* to, const Eight& values) {
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
    int blocks_of_row) {
  const int column =
      static_cast<int>(blockIdx.x) % blocks_of_row * kMergeThreads +
      static_cast<int>(threadIdx.x);
  const int vectors = n.gamma / kVector;
  if (column >= n.alpha * n.beta * vectors) {
    return;
  }
  const int group = static_cast<int>(blockIdx.x) / blocks_of_row;
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
    Eight sum{};
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

// One core's two indices beside gamma, phi and rho, and where they lie in w.
struct CoreIndices {
  int out = 1;
  int in = 1;
  int64_t out_stride = 0;
  int64_t in_stride = 0;
};

struct GradientShape {
  CoreIndices wanted;
  CoreIndices other;
  int gamma = 1;
  int phi = 1;
  int rho = 1;
  int64_t phi_stride = 0;

  [[nodiscard]] constexpr int64_t vectors() const {
    return static_cast<int64_t>(phi) * wanted.out * wanted.in *
           (gamma / kVector);
  }
};

constexpr int kSlices = 8;  // warps of a block, each with a part of the sum
constexpr int kRanks = 4;   // of a block, which share the elements of grad_w

// A warp's lanes have neighbouring vectors of the gradient of the wanted core.
__global__ void __launch_bounds__(32 * kSlices) merge_gradient_sums(
    const GradientShape n,
    const __nv_bfloat16* __restrict__ grad_w,
    const __nv_bfloat16* __restrict__ core,
    __nv_bfloat16* __restrict__ grad,
    int rank_blocks) {
  __shared__ float partials[kSlices][kRanks][kVector][32];
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int slice = static_cast<int>(threadIdx.x) / 32;
  const int first_rank = static_cast<int>(blockIdx.x) % rank_blocks * kRanks;
  const int ranks = min(kRanks, n.rho - first_rank);
  const int64_t vector =
      static_cast<int64_t>(blockIdx.x) / rank_blocks * 32 + lane;
  const bool exists = vector < n.vectors();
  int rest = static_cast<int>(exists ? vector : 0);
  const int vectors = n.gamma / kVector;
  const int g = rest % vectors * kVector;
  rest /= vectors;
  const int in = rest % n.wanted.in;
  rest /= n.wanted.in;
  const int out = rest % n.wanted.out;
  const int f = rest / n.wanted.out;

  const int row = n.other.in * n.gamma;
  const int64_t rows = static_cast<int64_t>(n.phi) * n.rho * row;
  const __nv_bfloat16* from_w = grad_w + out * n.wanted.out_stride +
                                in * n.wanted.in_stride + f * n.phi_stride + g;
  const __nv_bfloat16* from_core =
      core + (static_cast<int64_t>(f) * n.rho + first_rank) * row + g;
  Eight sums[kRanks] = {};
#pragma unroll 2
  for (int term = slice; term < n.other.out * n.other.in; term += kSlices) {
    const int64_t other_out = term / n.other.in;
    const int64_t other_in = term % n.other.in;
    const Eight of_w = load(
        from_w + other_out * n.other.out_stride + other_in * n.other.in_stride);
    const __nv_bfloat16* of_core =
        from_core + other_out * rows + other_in * n.gamma;
#pragma unroll
    for (int r = 0; r < kRanks; ++r) {
      if (r < ranks) {
        sums[r].add_product(of_w, load(of_core + r * row));
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kRanks; ++r) {
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      partials[slice][r][i][lane] = sums[r].of[i];
    }
  }
  __syncthreads();
  // A warp for each rank.
  if (slice >= ranks || !exists) {
    return;
  }
  Eight total{};
#pragma unroll
  for (int part = 0; part < kSlices; ++part) {
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      total.of[i] += partials[part][slice][i][lane];
    }
  }
  const int64_t target =
      (static_cast<int64_t>(out) * n.phi + f) * n.rho + first_rank + slice;
  store(grad + (target * n.wanted.in + in) * n.gamma + g, total);
}

CoreIndices indices_a(const MergeSizes& n) {
  return {
      .out = n.delta,
      .in = n.alpha,
      .out_stride = n.epsilon * n.phi * n.d_in(),
      .in_stride = static_cast<int64_t>(n.beta) * n.gamma};
}

CoreIndices indices_b(const MergeSizes& n) {
  return {
      .out = n.epsilon,
      .in = n.beta,
      .out_stride = n.phi * n.d_in(),
      .in_stride = n.gamma};
}

cudaError_t merge_gradient(
    const MergeSizes& n,
    const CoreIndices& wanted,
    const CoreIndices& other,
    const __nv_bfloat16* grad_w,
    const __nv_bfloat16* core,
    __nv_bfloat16* grad,
    cudaStream_t stream) {
  if (!merge_supports(n)) {
    return cudaErrorInvalidValue;
  }
  const GradientShape shape{
      .wanted = wanted,
      .other = other,
      .gamma = n.gamma,
      .phi = n.phi,
      .rho = n.rho,
      .phi_stride = n.d_in()};
  const unsigned rank_blocks = blocks_of(n.rho, kRanks);
  const unsigned blocks = blocks_of(shape.vectors(), 32) * rank_blocks;
  merge_gradient_sums<<<blocks, 32 * kSlices, 0, stream>>>(
      shape, grad_w, core, grad, static_cast<int>(rank_blocks));
  return cudaGetLastError();
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
  const unsigned blocks_of_row = blocks_of(n.d_in() / kVector, kMergeThreads);
  const unsigned groups =
      blocks_of(static_cast<int64_t>(n.delta) * n.epsilon, kMergeRows) *
      static_cast<unsigned>(n.phi);
  merge_rows<<<blocks_of_row * groups, kMergeThreads, 0, stream>>>(
      n, a, b, w, static_cast<int>(blocks_of_row));
  return cudaGetLastError();
}

cudaError_t merge_gradient_a(
    const MergeSizes& sizes,
    const __nv_bfloat16* grad_w,
    const __nv_bfloat16* b,
    __nv_bfloat16* grad_a,
    cudaStream_t stream) {
  return merge_gradient(
      sizes, indices_a(sizes), indices_b(sizes), grad_w, b, grad_a, stream);
}

cudaError_t merge_gradient_b(
    const MergeSizes& sizes,
    const __nv_bfloat16* grad_w,
    const __nv_bfloat16* a,
    __nv_bfloat16* grad_b,
    cudaStream_t stream) {
  return merge_gradient(
      sizes, indices_b(sizes), indices_a(sizes), grad_w, a, grad_b, stream);
}

}  // namespace einforge::kernels::cuda
