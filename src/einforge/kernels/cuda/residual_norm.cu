#include "einforge/kernels/cuda/residual_norm.h"

#include <algorithm>
#include <type_traits>

#include "einforge/kernels/cuda/ceil_div.h"
#include "einforge/kernels/cuda/column_sums.h"
#include "einforge/kernels/cuda/norm_range.h"
#include "einforge/kernels/cuda/vec4.cuh"

namespace einforge::kernels::cuda {

namespace {

constexpr int kWarps = 8;  // of a block
constexpr int kThreads = 32 * kWarps;
constexpr int kVector = Vec4::kSize;
constexpr int kVectors = 4;  // of a lane
constexpr int kElements = kVector * kVectors;
constexpr int kWarpWidth = 32 * kElements;  // columns of a warp
// Enough to even out what multiprocessors get, few enough that their sums are
// summed quickly.
constexpr int kMostBlocks = 1024;

// What a lane has of a row.
struct Elements {
  float of[kElements];
};

// A row belongs to kRowWarps warps, so that a block has kRows at once; lane l
// of them has vectors l, l + 32 kRowWarps, and so on.
template <int kRowWarps>
struct Rows {
  static constexpr int kRows = kWarps / kRowWarps;
  static constexpr int kLanes = 32 * kRowWarps;

  int width;
  int lane = static_cast<int>(threadIdx.x) % kLanes;
  int row = static_cast<int>(threadIdx.x) / kLanes;

  // Calls work(i, column) for the vectors of this lane, the ith of which begins
  // at that column.
  template <typename Work>
  __device__ __forceinline__ void for_vectors(const Work& work) const {
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int column = (lane + i * kLanes) * kVector;
      if (column < width) {
        work(i, column);
      }
    }
  }

  template <typename Element>
  __device__ __forceinline__ Elements load(const Element* from) const {
    Elements e{};
    for_vectors([&](int i, int column) {
      const Vec4 v = load_vec4(from + column);
#pragma unroll
      for (int n = 0; n < kVector; ++n) {
        e.of[i * kVector + n] = v.of[n];
      }
    });
    return e;
  }

  template <typename Element>
  __device__ __forceinline__ void store(Element* to, const Elements& e) const {
    for_vectors([&](int i, int column) {
      Vec4 v;
#pragma unroll
      for (int n = 0; n < kVector; ++n) {
        v.of[n] = e.of[i * kVector + n];
      }
      store_vec4(to + column, v);
    });
  }

  // Of the lanes of a row, to all of them. Between two calls with the same
  // `shared` there has to be one with another.
  __device__ __forceinline__ float2
  sum(float2 value, float2 (&shared)[kWarps]) const {
#pragma unroll
    for (int hop = 1; hop < 32; hop *= 2) {
      value.x += __shfl_xor_sync(0xFFFFFFFFU, value.x, hop);
      value.y += __shfl_xor_sync(0xFFFFFFFFU, value.y, hop);
    }
    if constexpr (kRowWarps > 1) {
      if (threadIdx.x % 32 == 0) {
        shared[threadIdx.x / 32] = value;
      }
      __syncthreads();
      value = float2{0.0F, 0.0F};
#pragma unroll
      for (int warp = 0; warp < kRowWarps; ++warp) {
        value.x += shared[row * kRowWarps + warp].x;
        value.y += shared[row * kRowWarps + warp].y;
      }
    }
    return value;
  }

  // Takes the mean from a row's elements; returns it and 1 / sqrt(var +
  // epsilon), which is 0 or NaN where sums leave the range of float32.
  __device__ __forceinline__ float2 centre(
      Elements& e,
      float epsilon,
      float2 (&means)[kWarps],
      float2 (&variances)[kWarps]) const {
    const float share = 1.0F / static_cast<float>(width);
    float total = 0.0F;
#pragma unroll
    for (const float value : e.of) {
      total += value;
    }
    const float mean = sum({total, 0.0F}, means).x * share;
    float squares = 0.0F;
    for_vectors([&](int i, int) {
#pragma unroll
      for (int c = i * kVector; c < (i + 1) * kVector; ++c) {
        e.of[c] -= mean;
        squares += e.of[c] * e.of[c];
      }
    });
    return {mean, rsqrtf(sum({squares, 0.0F}, variances).x * share + epsilon)};
  }

  // Whether it holds for any of the rows that share sums' barriers.
  __device__ __forceinline__ static bool any(bool condition) {
    if constexpr (kRowWarps > 1) {
      return __syncthreads_or(condition ? 1 : 0) != 0;
    } else {
      return __any_sync(0xFFFFFFFFU, condition) != 0;
    }
  }

  // Calls work(row) for the rows of this thread; blocks go together.
  template <typename Work>
  __device__ __forceinline__ void for_rows(
      int64_t rows, const Work& work) const {
    for (int64_t first = static_cast<int64_t>(blockIdx.x) * kRows; first < rows;
         first += static_cast<int64_t>(gridDim.x) * kRows) {
      work(first + row);
    }
  }
};

template <int kRowWarps>
__global__ void __launch_bounds__(kThreads) residual_norm_kernel(
    const __grid_constant__ ResidualNormLaunch p,
    const float* __restrict__ x,
    const __nv_bfloat16* __restrict__ branch,
    float* __restrict__ sum,
    __nv_bfloat16* __restrict__ y,
    float2* __restrict__ moments) {
  __shared__ float2 means[kWarps];
  __shared__ float2 variances[kWarps];
  const Rows<kRowWarps> rows{p.width};
  const Elements gain = rows.load(p.gain);
  const auto optional = [&](const float* values) {
    return values == nullptr ? Elements{} : rows.load(values);
  };
  const Elements bias = optional(p.bias);
  const Elements branch_bias = optional(p.branch_bias);
  rows.for_rows(p.rows, [&](int64_t row) {
    const bool exists = row < p.rows;
    const int64_t at = row * p.width;
    Elements e = exists ? rows.load(x + at) : Elements{};
    if (branch != nullptr && exists) {
      const Elements b = rows.load(branch + at);
#pragma unroll
      for (int i = 0; i < kElements; ++i) {
        e.of[i] += p.scale * (b.of[i] + branch_bias.of[i]);
      }
      rows.store(sum + at, e);
    }
    float2 moment = rows.centre(e, p.epsilon, means, variances);
    float scale = moment.y;
    const bool is_lost = exists && !(scale > 0.0F);
    if (rows.any(is_lost)) {
      Elements small =
          exists ? rows.load((branch == nullptr ? x : sum) + at) : Elements{};
#pragma unroll
      for (float& value : small.of) {
        value *= kSmallMultiple;
      }
      const float2 found =
          rows.centre(small, kSmallestEpsilon, means, variances);
      if (is_lost) {
        e = small;
        scale = found.y;
        moment = {found.x / kSmallMultiple, found.y * kSmallMultiple};
      }
    }
#pragma unroll
    for (int i = 0; i < kElements; ++i) {
      e.of[i] = gain.of[i] * (e.of[i] * scale) + bias.of[i];
    }
    if (exists) {
      rows.store(y + at, e);
      if (rows.lane == 0) {
        moments[row] = moment;
      }
    }
  });
}

__host__ __device__ int parts_of(const ResidualNormGradients& gradients) {
  return gradients.branch == nullptr ? 2 : 3;
}

// With n = y without gain and bias, s = 1 / sqrt(var + epsilon), g = gain dy:
//   dx      = s (g - mean(g) - n mean(g n)) + dsum,   dbranch = scale dx
//   dgain   = sum over rows of dy n,                  dbias   = that of dy
//   dbranch_bias = that of scale dx
// where dy is the sum of what kReaders give.
template <int kRowWarps, int kReaders>
__global__ void __launch_bounds__(kThreads, 2) residual_norm_backward_kernel(
    const __grid_constant__ ResidualNormLaunch p,
    const float* __restrict__ sum,
    const float2* __restrict__ moments,
    const float* __restrict__ dsum,
    const __grid_constant__ ResidualNormReaders readers,
    float* __restrict__ partials,
    const __grid_constant__ ResidualNormGradients gradients) {
  using Of = Rows<kRowWarps>;
  __shared__ float2 means[2][kWarps];
  __shared__ __align__(16) float columns[kWarps * kWarpWidth];
  const Of rows{p.width};
  float* gain = columns;  // there are no registers left for it
  if (rows.row == 0) {
    rows.store(gain, rows.load(p.gain));
  }
  __syncthreads();
  const float share = 1.0F / static_cast<float>(p.width);
  Elements dgain{};
  Elements dbias{};
  Elements dx_sum{};
  int turn = 0;
  rows.for_rows(p.rows, [&](int64_t row) {
    const bool exists = row < p.rows;
    const int64_t at = row * p.width;
    Elements n = exists ? rows.load(sum + at) : Elements{};
    Elements g = exists ? rows.load(readers.dy[0] + at) : Elements{};
#pragma unroll
    for (int reader = 1; reader < kReaders; ++reader) {
      const Elements more =
          exists ? rows.load(readers.dy[reader] + at) : Elements{};
#pragma unroll
      for (int i = 0; i < kElements; ++i) {
        g.of[i] += more.of[i];
      }
    }
    const Elements other =
        exists && dsum != nullptr ? rows.load(dsum + at) : Elements{};
    const float2 moment = exists ? moments[row] : float2{0.0F, 0.0F};
    float2 mean{0.0F, 0.0F};
    const Elements factor = rows.load(gain);
#pragma unroll
    for (int i = 0; i < kElements; ++i) {
      n.of[i] = (n.of[i] - moment.x) * moment.y;
      dgain.of[i] += g.of[i] * n.of[i];
      dbias.of[i] += g.of[i];
      g.of[i] *= factor.of[i];
      mean.x += g.of[i];
      mean.y += g.of[i] * n.of[i];
    }
    mean = rows.sum(mean, means[turn]);
    turn ^= 1;
    mean.x *= share;
    mean.y *= share;
#pragma unroll
    for (int i = 0; i < kElements; ++i) {
      g.of[i] = moment.y * (g.of[i] - mean.x - n.of[i] * mean.y) + other.of[i];
      dx_sum.of[i] += g.of[i];
    }
    if (exists) {
      rows.store(gradients.x + at, g);
      if (gradients.branch != nullptr) {
#pragma unroll
        for (float& value : g.of) {
          value *= p.scale;
        }
        rows.store(gradients.branch + at, g);
      }
    }
  });
  // Row by row of the block; first all of the gain, then of the biases.
  constexpr int kMostWidth = kRowWarps * kWarpWidth;
  const int parts = parts_of(gradients);
  float* result = partials + static_cast<int64_t>(blockIdx.x) * parts * p.width;
  const auto store_sum = [&](const Elements& part) {
    __syncthreads();
    rows.store(columns + rows.row * kMostWidth, part);
    __syncthreads();
    for (int c = static_cast<int>(threadIdx.x); c < p.width; c += kThreads) {
      float total = 0.0F;
#pragma unroll
      for (int r = 0; r < Of::kRows; ++r) {
        total += columns[r * kMostWidth + c];
      }
      result[c] = total;
    }
    result += p.width;
  };
  store_sum(dgain);
  store_sum(dbias);
  if (parts > 2) {
#pragma unroll
    for (float& value : dx_sum.of) {
      value *= p.scale;
    }
    store_sum(dx_sum);
  }
}

// Calls run with the warps of a row as a constant.
template <typename Run>
void with_warps(int width, const Run& run) {
  if (width <= kWarpWidth) {
    run(std::integral_constant<int, 1>{});
  } else if (width <= 2 * kWarpWidth) {
    run(std::integral_constant<int, 2>{});
  } else if (width <= 4 * kWarpWidth) {
    run(std::integral_constant<int, 4>{});
  } else {
    run(std::integral_constant<int, 8>{});
  }
}

unsigned blocks_for(int64_t rows, int row_warps) {
  return std::min<unsigned>(kMostBlocks, ceil_div(rows, kWarps / row_warps));
}

bool valid(const ResidualNormLaunch& p) {
  return p.rows > 0 && residual_norm_supports(p.width);
}

}  // namespace

bool residual_norm_supports(int64_t width) {
  return width > 0 && width % kVector == 0 && width <= kWarps * kWarpWidth;
}

cudaError_t residual_norm(
    const ResidualNormLaunch& p,
    const float* x,
    const __nv_bfloat16* branch,
    float* sum,
    __nv_bfloat16* y,
    float2* moments,
    cudaStream_t stream) {
  if (!valid(p)) {
    return cudaErrorInvalidValue;
  }
  with_warps(p.width, [&](auto warps) {
    residual_norm_kernel<warps>
        <<<blocks_for(p.rows, warps), kThreads, 0, stream>>>(
            p, x, branch, sum, y, moments);
  });
  return cudaGetLastError();
}

size_t residual_norm_backward_bytes(int width) {
  return sizeof(float) * kMostBlocks * 3 * static_cast<size_t>(width);
}

cudaError_t residual_norm_backward(
    const ResidualNormLaunch& p,
    const float* sum,
    const float2* moments,
    const float* dsum,
    const ResidualNormReaders& readers,
    void* workspace,
    const ResidualNormGradients& gradients,
    cudaStream_t stream) {
  if (!valid(p)) {
    return cudaErrorInvalidValue;
  }
  auto* partials = static_cast<float*>(workspace);
  unsigned blocks = 0;
  bool is_run = false;
  with_warps(p.width, [&](auto warps) {
    blocks = blocks_for(p.rows, warps);
    const auto run = [&](auto count) {
      if (readers.count == count) {
        residual_norm_backward_kernel<warps, count>
            <<<blocks, kThreads, 0, stream>>>(
                p, sum, moments, dsum, readers, partials, gradients);
        is_run = true;
      }
    };
    run(std::integral_constant<int, 1>{});
    run(std::integral_constant<int, 3>{});
    run(std::integral_constant<int, 4>{});
  });
  if (!is_run) {
    return cudaErrorInvalidValue;
  }
  return column_sums(
      partials,
      static_cast<int>(blocks),
      parts_of(gradients) * p.width,
      gradients.affine,
      stream);
}

}  // namespace einforge::kernels::cuda
