#include <algorithm>

#include "einforge/kernels/cuda/ceil_div.h"
#include "einforge/kernels/cuda/rms_cap.h"
#include "einforge/kernels/cuda/vec4.cuh"

namespace einforge::kernels::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kVector = Vec4::kSize;
constexpr int kVectors = 4;  // of a thread, until there are kMostBlocks
// A thread of the next kernel has one partial sum.
constexpr int kMostBlocks = kThreads;

// What of an operand begins at `at`; zeros past its end.
template <typename Element>
__device__ __forceinline__ Vec4
load(const Element* operand, int64_t at, int64_t size) {
  if (at + kVector <= size) {
    return load_vec4(operand + at);
  }
  Vec4 vec{};
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    if (at + i < size) {
      vec.of[i] = static_cast<float>(operand[at + i]);
    }
  }
  return vec;
}

template <typename Element>
__device__ __forceinline__ void store(
    Element* operand, int64_t at, int64_t size, const Vec4& vec) {
  if (at + kVector <= size) {
    store_vec4(operand + at, vec);
    return;
  }
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    if (at + i < size) {
      operand[at + i] = static_cast<Element>(vec.of[i]);
    }
  }
}

// Calls work(at) with where the vectors of this thread begin.
template <typename Work>
__device__ __forceinline__ void for_vectors(int64_t size, const Work& work) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads * kVector;
#pragma unroll 4
  for (int64_t at =
           (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) *
           kVector;
       at < size;
       at += stride) {
    work(at);
  }
}

// Of the whole block, to all of it.
__device__ __forceinline__ double2 sum_of_block(double2 value) {
  __shared__ double2 warps[kThreads / 32];
#pragma unroll
  for (int hop = 1; hop < 32; hop *= 2) {
    value.x += __shfl_xor_sync(0xFFFFFFFFU, value.x, hop);
    value.y += __shfl_xor_sync(0xFFFFFFFFU, value.y, hop);
  }
  if (threadIdx.x % 32 == 0) {
    warps[threadIdx.x / 32] = value;
  }
  __syncthreads();
  double2 sum{0.0, 0.0};
#pragma unroll
  for (const double2& warp : warps) {
    sum.x += warp.x;
    sum.y += warp.y;
  }
  return sum;
}

// core . core, and with a gradient grad . core, of each block.
template <typename Element>
__global__ void __launch_bounds__(kThreads) rms_cap_partials(
    const __grid_constant__ RmsCapLaunch p, const Element* grad) {
  double2 sum{0.0, 0.0};
  for_vectors(p.size, [&](int64_t at) {
    const Vec4 core = load(p.core, at, p.size);
    const Vec4 g = grad == nullptr ? Vec4{} : load(grad, at, p.size);
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      const double value = core.of[i];
      sum.x += value * value;
      sum.y += value * g.of[i];
    }
  });
  sum = sum_of_block(sum);
  if (threadIdx.x == 0) {
    static_cast<double2*>(p.workspace)[blockIdx.x] = sum;
  }
}

struct Cap {
  double scale;  // the gain / max(1, rms / max_rms), NaN where that is
  double along;  // grad . core / core . core above the cap, else 0
  double dgain;

  // By the whole block; its grid is that of the partial sums.
  __device__ __forceinline__ explicit Cap(const RmsCapLaunch& p) {
    const auto* partials = static_cast<const double2*>(p.workspace);
    const double2 sum = sum_of_block(
        threadIdx.x < gridDim.x ? partials[threadIdx.x] : double2{0.0, 0.0});
    const double excess = sqrt(sum.x / static_cast<double>(p.size)) / p.max_rms;
    const double s = 1.0 / (excess < 1.0 ? 1.0 : excess);
    scale = p.gain == nullptr ? s : s * static_cast<double>(*p.gain);
    along = excess > 1.0 ? sum.y / sum.x : 0.0;
    dgain = s * sum.y;
  }
};

template <typename Element>
__global__ void __launch_bounds__(kThreads)
    rms_cap_apply(const __grid_constant__ RmsCapLaunch p, Element* y) {
  const Cap cap(p);
  for_vectors(p.size, [&](int64_t at) {
    Vec4 core = load(p.core, at, p.size);
    for (float& value : core.of) {
      value = static_cast<float>(cap.scale * value);
    }
    store(y, at, p.size, core);
  });
}

// With s = 1 / max(1, rms / max_rms) and n elements:
//   dcore  = gain s (grad - [rms > max_rms] core (grad . core) / (n rms^2))
//   dgain  = s (grad . core)
template <typename Element>
__global__ void __launch_bounds__(kThreads) rms_cap_backward_apply(
    const __grid_constant__ RmsCapLaunch p,
    const Element* grad,
    float* dcore,
    float* dgain) {
  const Cap cap(p);
  for_vectors(p.size, [&](int64_t at) {
    const Vec4 core = load(p.core, at, p.size);
    Vec4 g = load(grad, at, p.size);
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      g.of[i] =
          static_cast<float>(cap.scale * (g.of[i] - cap.along * core.of[i]));
    }
    store(dcore, at, p.size, g);
  });
  if (dgain != nullptr && blockIdx.x == 0 && threadIdx.x == 0) {
    *dgain = static_cast<float>(cap.dgain);
  }
}

unsigned blocks_for(int64_t size) {
  return std::min<unsigned>(
      kMostBlocks, ceil_div(size, kThreads * kVector * kVectors));
}

}  // namespace

size_t rms_cap_bytes() {
  return sizeof(double2) * kMostBlocks;
}

template <typename Element>
cudaError_t rms_cap(const RmsCapLaunch& p, Element* y, cudaStream_t stream) {
  const unsigned blocks = blocks_for(p.size);
  rms_cap_partials<Element><<<blocks, kThreads, 0, stream>>>(p, nullptr);
  rms_cap_apply<<<blocks, kThreads, 0, stream>>>(p, y);
  return cudaGetLastError();
}

template <typename Element>
cudaError_t rms_cap_backward(
    const RmsCapLaunch& p,
    const Element* grad,
    float* dcore,
    float* dgain,
    cudaStream_t stream) {
  const unsigned blocks = blocks_for(p.size);
  rms_cap_partials<<<blocks, kThreads, 0, stream>>>(p, grad);
  rms_cap_backward_apply<<<blocks, kThreads, 0, stream>>>(
      p, grad, dcore, dgain);
  return cudaGetLastError();
}

template cudaError_t rms_cap(const RmsCapLaunch&, float*, cudaStream_t);
template cudaError_t rms_cap(const RmsCapLaunch&, __nv_bfloat16*, cudaStream_t);
template cudaError_t rms_cap_backward(
    const RmsCapLaunch&, const float*, float*, float*, cudaStream_t);
template cudaError_t rms_cap_backward(
    const RmsCapLaunch&, const __nv_bfloat16*, float*, float*, cudaStream_t);

}  // namespace einforge::kernels::cuda
