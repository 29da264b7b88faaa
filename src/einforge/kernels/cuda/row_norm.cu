#include <algorithm>
#include <type_traits>
#include <utility>

#include "einforge/kernels/cuda/ceil_div.h"
#include "einforge/kernels/cuda/column_sums.h"
#include "einforge/kernels/cuda/row_norm.cuh"
#include "einforge/kernels/cuda/row_norm.h"

namespace einforge::kernels::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kVector = 8;  // elements of a lane
// Enough to fill any device, few enough that their sums are reduced quickly.
constexpr int kMostBlocks = 1024;

// Calls work(vector, exists) for the vectors of this thread; whole warps go
// together, since they exchange sums.
template <typename Work>
__device__ void for_vectors(int64_t vectors, const Work& work) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * kThreads;
       first < vectors;
       first += stride) {
    const int64_t vector = first + threadIdx.x;
    work(vector, vector < vectors);
  }
}

template <int kLanes>
__device__ Vec8 gain_of_lane(const float* gain) {
  Vec8 result;
  const auto part = static_cast<int>(threadIdx.x) % kLanes;
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    result.of[i] = gain[part * kVector + i];
  }
  return result;
}

template <int kLanes>
__global__ void __launch_bounds__(kThreads)
    row_norm_kernel(RowNormRows p, uint4* y) {
  const Vec8 gain = gain_of_lane<kLanes>(p.gain);
  const auto* x = reinterpret_cast<const uint4*>(p.x);
  for_vectors(p.rows * kLanes, [&](int64_t vector, bool exists) {
    Vec8 n = Vec8::load(exists ? x[vector] : uint4{0, 0, 0, 0});
    normalise<kLanes>(n, p.epsilon);
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      n.of[i] *= gain.of[i];
    }
    if (exists) {
      y[vector] = n.rounded();
    }
  });
}

// With g = gain dy: dx = (g - mean(g) - n mean(g n)) / sqrt(var + epsilon), and
// dgain = sum over rows of dy n.
template <int kLanes>
__global__ void __launch_bounds__(kThreads) row_norm_backward_kernel(
    RowNormRows p, const uint4* dy, uint4* dx, float* partials) {
  constexpr int kWidth = kLanes * kVector;
  __shared__ float sums[kThreads * kVector];
  const Vec8 gain = gain_of_lane<kLanes>(p.gain);
  const auto* x = reinterpret_cast<const uint4*>(p.x);
  Vec8 dgain{};
  for_vectors(p.rows * kLanes, [&](int64_t vector, bool exists) {
    const uint4 zeros{0, 0, 0, 0};
    Vec8 n = Vec8::load(exists ? x[vector] : zeros);
    Vec8 g = Vec8::load(exists ? dy[vector] : zeros);
    const float scale = normalise<kLanes>(n, p.epsilon).y;
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      dgain.of[i] += g.of[i] * n.of[i];
      g.of[i] *= gain.of[i];
    }
    normalise_backward<kLanes>(g, n, scale);
    if (exists) {
      dx[vector] = g.rounded();
    }
  });
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    sums[static_cast<int>(threadIdx.x) * kVector + i] = dgain.of[i];
  }
  __syncthreads();
  const auto column = static_cast<int>(threadIdx.x);
  if (column < kWidth) {
    float sum = 0.0F;
    for (int row = 0; row < kThreads / kLanes; ++row) {
      sum += sums[row * kWidth + column];
    }
    partials[blockIdx.x * kWidth + column] = sum;
  }
}

unsigned blocks_for(const RowNormRows& rows) {
  return std::min<unsigned>(
      kMostBlocks, ceil_div(rows.rows * (rows.width / kVector), kThreads));
}

// Calls run with the lanes of a row as a constant.
template <typename Run>
void with_lanes(int width, const Run& run) {
  const auto lanes = [&]<int... kLanes>(std::integer_sequence<int, kLanes...>) {
    ((width == kVector * kLanes ? run(std::integral_constant<int, kLanes>{})
                                : void()),
     ...);
  };
  lanes(std::integer_sequence<int, 1, 2, 4, 8, 16, 32>{});
}

}  // namespace

bool row_norm_supports(int64_t width) {
  return width >= kVector && width <= 32 * kVector &&
         (width & (width - 1)) == 0;
}

cudaError_t row_norm(
    const RowNormRows& rows, __nv_bfloat16* y, cudaStream_t stream) {
  with_lanes(rows.width, [&](auto lanes) {
    row_norm_kernel<lanes><<<blocks_for(rows), kThreads, 0, stream>>>(
        rows, reinterpret_cast<uint4*>(y));
  });
  return cudaGetLastError();
}

size_t row_norm_backward_bytes(int width) {
  return sizeof(float) * kMostBlocks * static_cast<size_t>(width);
}

cudaError_t row_norm_backward(
    const RowNormRows& rows,
    const __nv_bfloat16* dy,
    void* workspace,
    __nv_bfloat16* dx,
    float* dgain,
    cudaStream_t stream) {
  auto* partials = static_cast<float*>(workspace);
  const unsigned blocks = blocks_for(rows);
  with_lanes(rows.width, [&](auto lanes) {
    row_norm_backward_kernel<lanes><<<blocks, kThreads, 0, stream>>>(
        rows,
        reinterpret_cast<const uint4*>(dy),
        reinterpret_cast<uint4*>(dx),
        partials);
  });
  return column_sums(
      partials, static_cast<int>(blocks), rows.width, dgain, stream);
}

}  // namespace einforge::kernels::cuda
