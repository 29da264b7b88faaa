#include "einforge/kernels/cuda/gelu.h"

#include <algorithm>
#include <type_traits>

#include "einforge/kernels/cuda/ceil_div.h"
#include "einforge/kernels/cuda/column_sums.h"
#include "einforge/kernels/cuda/vec4.cuh"
#include "einforge/kernels/cuda/vec8.cuh"

namespace einforge::kernels::cuda {

namespace {

constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;
constexpr int kRows = 4 * kWarps;  // that a block should have at least
// Many, so that those that run last take little of the time.
constexpr int kMostBlocks = 4096;
constexpr int kMostSplits = 512;

constexpr float kCubic = 0.044715F;
constexpr float kSlope = 1.5957691216057308F;  // sqrt(8 / pi)

// Neighbours in a row, as many as a lane has of it.
template <typename Element, int kSize>
struct Part;

template <>
struct Part<__nv_bfloat16, 8> : Vec8 {
  __device__ static Part load(const __nv_bfloat16* from) {
    return {Vec8::load(*reinterpret_cast<const uint4*>(from))};
  }
  __device__ void store(__nv_bfloat16* to) const {
    *reinterpret_cast<uint4*>(to) = rounded();
  }
};
template <>
struct Part<float, 4> : Vec4 {
  __device__ static Part load(const float* from) { return {load_vec4(from)}; }
  __device__ void store(float* to) const { store_vec4(to, *this); }
};
template <typename Element>
struct Part<Element, 1> {
  float of[1];
  __device__ static Part load(const Element* from) {
    return {{static_cast<float>(*from)}};
  }
  __device__ void store(Element* to) const {
    *to = static_cast<Element>(of[0]);
  }
};

// 1 / (1 + exp(-w)), good to what the element keeps.
template <typename Element>
__device__ __forceinline__ float sigmoid(float w) {
  if constexpr (std::is_same_v<Element, float>) {
    return 1.0F / (1.0F + expf(-w));
  } else {
    return __fdividef(1.0F, 1.0F + __expf(-w));
  }
}

template <typename Element>
__device__ __forceinline__ float gelu_of(float v) {
  return v * sigmoid<Element>(kSlope * (v + kCubic * v * v * v));
}

template <typename Element>
__device__ __forceinline__ float gelu_slope(float v) {
  const float square = v * v;
  const float s = sigmoid<Element>(kSlope * v * (1.0F + kCubic * square));
  return s + v * s * (1.0F - s) * (kSlope * (1.0F + 3.0F * kCubic * square));
}

// A block has 32 kSize columns (x) of every gridDim.y-th group of kWarps rows,
// a warp a row of them. Calls work(at) for where this thread's parts begin.
template <int kSize>
struct Tile {
  int width;
  int column =
      (static_cast<int>(blockIdx.x) * 32 + static_cast<int>(threadIdx.x) % 32) *
      kSize;

  template <typename Work>
  __device__ __forceinline__ void for_rows(
      int64_t rows, const Work& work) const {
    if (column >= width) {
      return;
    }
#pragma unroll 4
    for (int64_t row = static_cast<int64_t>(blockIdx.y) * kWarps +
                       static_cast<int>(threadIdx.x) / 32;
         row < rows;
         row += static_cast<int64_t>(gridDim.y) * kWarps) {
      work(row * width + column);
    }
  }

  __device__ __forceinline__ void load_bias(
      const float* bias, float (&of)[kSize]) const {
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      of[i] = bias == nullptr || column >= width ? 0.0F : bias[column + i];
    }
  }
};

template <typename Element, int kSize>
__global__ void __launch_bounds__(kThreads) gelu_kernel(
    const Element* __restrict__ x,
    const float* __restrict__ bias,
    int64_t rows,
    int width,
    Element* __restrict__ y) {
  const Tile<kSize> tile{width};
  float shift[kSize];
  tile.load_bias(bias, shift);
  tile.for_rows(rows, [&](int64_t at) {
    auto part = Part<Element, kSize>::load(x + at);
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      part.of[i] = gelu_of<Element>(part.of[i] + shift[i]);
    }
    part.store(y + at);
  });
}

// partials (gridDim.y, width), or null.
template <typename Element, int kSize>
__global__ void __launch_bounds__(kThreads, 4) gelu_backward_kernel(
    const Element* __restrict__ x,
    const float* __restrict__ bias,
    const Element* __restrict__ dy,
    int64_t rows,
    int width,
    Element* __restrict__ dx,
    float* __restrict__ partials) {
  __shared__ float sums[kWarps][32 * kSize];
  const Tile<kSize> tile{width};
  float shift[kSize];
  tile.load_bias(bias, shift);
  float sum[kSize] = {};
  tile.for_rows(rows, [&](int64_t at) {
    const auto part = Part<Element, kSize>::load(x + at);
    auto grad = Part<Element, kSize>::load(dy + at);
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      grad.of[i] *= gelu_slope<Element>(part.of[i] + shift[i]);
      sum[i] += grad.of[i];
    }
    grad.store(dx + at);
  });
  if (partials == nullptr) {
    return;
  }
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int i = 0; i < kSize; ++i) {
    sums[threadIdx.x / 32][lane * kSize + i] = sum[i];
  }
  __syncthreads();
  const int column = static_cast<int>(threadIdx.x);
  const int at = static_cast<int>(blockIdx.x) * 32 * kSize + column;
  if (column < 32 * kSize && at < width) {
    float total = 0.0F;
#pragma unroll
    for (int warp = 0; warp < kWarps; ++warp) {
      total += sums[warp][column];
    }
    partials[static_cast<int64_t>(blockIdx.y) * width + at] = total;
  }
}

template <typename Element, int kSize>
dim3 grid_of(int64_t rows, int width) {
  const unsigned tiles = ceil_div(width, 32 * kSize);
  const auto most = static_cast<int64_t>(
      std::clamp<unsigned>(kMostBlocks / tiles, 1, kMostSplits));
  return {
      tiles,
      static_cast<unsigned>(std::min<int64_t>(most, ceil_div(rows, kRows)))};
}

// Calls run with a lane's elements of a row as a constant: 16 bytes of them,
// or, of rows that are not aligned to that, one.
template <typename Element, typename Run>
void with_size(int width, const Run& run) {
  constexpr int kVector = 16 / sizeof(Element);
  if (width % kVector == 0) {
    run(std::integral_constant<int, kVector>{});
  } else {
    run(std::integral_constant<int, 1>{});
  }
}

template <typename Element>
bool valid(const GeluRows<Element>& p) {
  return p.rows > 0 && p.width > 0;
}

}  // namespace

template <typename Element>
cudaError_t gelu(const GeluRows<Element>& p, Element* y, cudaStream_t stream) {
  if (!valid(p)) {
    return cudaErrorInvalidValue;
  }
  with_size<Element>(p.width, [&](auto size) {
    gelu_kernel<Element, size>
        <<<grid_of<Element, size>(p.rows, p.width), kThreads, 0, stream>>>(
            p.x, p.bias, p.rows, p.width, y);
  });
  return cudaGetLastError();
}

size_t gelu_backward_bytes(int width) {
  return sizeof(float) * kMostSplits * static_cast<size_t>(width);
}

template <typename Element>
cudaError_t gelu_backward(
    const GeluRows<Element>& p,
    const Element* dy,
    void* workspace,
    Element* dx,
    float* dbias,
    cudaStream_t stream) {
  if (!valid(p)) {
    return cudaErrorInvalidValue;
  }
  float* partials = dbias == nullptr ? nullptr : static_cast<float*>(workspace);
  unsigned splits = 0;
  with_size<Element>(p.width, [&](auto size) {
    const dim3 grid = grid_of<Element, size>(p.rows, p.width);
    splits = grid.y;
    gelu_backward_kernel<Element, size><<<grid, kThreads, 0, stream>>>(
        p.x, p.bias, dy, p.rows, p.width, dx, partials);
  });
  if (dbias == nullptr) {
    return cudaGetLastError();
  }
  return column_sums(
      partials, static_cast<int>(splits), p.width, dbias, stream);
}

template cudaError_t gelu(const GeluRows<float>&, float*, cudaStream_t);
template cudaError_t gelu(
    const GeluRows<__nv_bfloat16>&, __nv_bfloat16*, cudaStream_t);
template cudaError_t gelu_backward(
    const GeluRows<float>&, const float*, void*, float*, float*, cudaStream_t);
template cudaError_t gelu_backward(
    const GeluRows<__nv_bfloat16>&,
    const __nv_bfloat16*,
    void*,
    __nv_bfloat16*,
    float*,
    cudaStream_t);

}  // namespace einforge::kernels::cuda
