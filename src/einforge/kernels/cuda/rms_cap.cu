#include <algorithm>

#include "einforge/kernels/cuda/blocks.h"
#include "einforge/kernels/cuda/four.cuh"
#include "einforge/kernels/cuda/rms_cap.h"

namespace einforge::kernels::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kVector = Four::kSize;
constexpr int kVectors = 4;  // of a thread, until there are kMostBlocks
// A thread of the next kernel has one partial sum.
constexpr int kMostBlocks = kThreads;

// What of an operand begins at `at`; zeros past its end.
template <typename Element>
__device__ __forceinline__ Four
load(const Element* operand, int64_t at, int64_t size) {
  if (at + kVector <= size) {
    return load_four(operand + at);
  }
  Four four{};
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    if (at + i < size) {
      four.of[i] = static_cast<float>(operand[at + i]);
    }
  }
  return four;
}

template <typename Element>
__device__ __forceinline__ void store(
    Element* operand, int64_t at, int64_t size, const Four& four) {
  if (at + kVector <= size) {
    store_four(operand + at, four);
    return;
  }
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    if (at + i < size) {
      operand[at + i] = static_cast<Element>(four.of[i]);
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
__device__ __forceinline__ float2 sum_of_block(float2 value) {
  __shared__ float2 warps[kThreads / 32];
#pragma unroll
  for (int hop = 1; hop < 32; hop *= 2) {
    value.x += __shfl_xor_sync(0xFFFFFFFFU, value.x, hop);
    value.y += __shfl_xor_sync(0xFFFFFFFFU, value.y, hop);
  }
  if (threadIdx.x % 32 == 0) {
    warps[threadIdx.x / 32] = value;
  }
  __syncthreads();
  float2 sum{0.0F, 0.0F};
#pragma unroll
  for (const float2& warp : warps) {
    sum.x += warp.x;
    sum.y += warp.y;
  }
  return sum;
}

// core . core, and with a gradient grad . core, of each block.
template <typename Element>
__global__ void __launch_bounds__(kThreads) rms_cap_partials(
    const __grid_constant__ RmsCapLaunch p, const Element* grad) {
  float2 sum{0.0F, 0.0F};
  for_vectors(p.size, [&](int64_t at) {
    const Four core = load(p.core, at, p.size);
    const Four g = grad == nullptr ? Four{} : load(grad, at, p.size);
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      sum.x += core.of[i] * core.of[i];
      sum.y += core.of[i] * g.of[i];
    }
  });
  sum = sum_of_block(sum);
  if (threadIdx.x == 0) {
    static_cast<float2*>(p.workspace)[blockIdx.x] = sum;
  }
}

struct Cap {
  float rms;
  float scale;  // 1 / max(1, rms / max_rms), NaN where that is
  float gain;   // times gamma
  float dot;    // grad . core

  // By the whole block; its grid is that of the partial sums.
  __device__ __forceinline__ explicit Cap(const RmsCapLaunch& p) {
    const auto* partials = static_cast<const float2*>(p.workspace);
    const float2 sum = sum_of_block(
        threadIdx.x < gridDim.x ? partials[threadIdx.x] : float2{0.0F, 0.0F});
    rms = sqrtf(sum.x / static_cast<float>(p.size));
    const float excess = rms / p.max_rms;
    scale = 1.0F / (excess < 1.0F ? 1.0F : excess);
    gain = p.gamma == nullptr ? scale : scale * *p.gamma;
    dot = sum.y;
  }
};

template <typename Element>
__global__ void __launch_bounds__(kThreads)
    rms_cap_apply(const __grid_constant__ RmsCapLaunch p, Element* y) {
  const Cap cap(p);
  for_vectors(p.size, [&](int64_t at) {
    Four core = load(p.core, at, p.size);
    for (float& value : core.of) {
      value *= cap.gain;
    }
    store(y, at, p.size, core);
  });
}

// With s = 1 / max(1, rms / max_rms) and n elements:
//   dcore  = gamma s (grad - [rms > max_rms] core (grad . core) / (n rms^2))
//   dgamma = s (grad . core)
template <typename Element>
__global__ void __launch_bounds__(kThreads) rms_cap_backward_apply(
    const __grid_constant__ RmsCapLaunch p,
    const Element* grad,
    float* dcore,
    float* dgamma) {
  const Cap cap(p);
  const float along = cap.rms > p.max_rms
                          ? cap.gain * cap.dot /
                                (cap.rms * cap.rms * static_cast<float>(p.size))
                          : 0.0F;
  for_vectors(p.size, [&](int64_t at) {
    const Four core = load(p.core, at, p.size);
    Four g = load(grad, at, p.size);
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      g.of[i] = cap.gain * g.of[i] - along * core.of[i];
    }
    store(dcore, at, p.size, g);
  });
  if (dgamma != nullptr && blockIdx.x == 0 && threadIdx.x == 0) {
    *dgamma = cap.scale * cap.dot;
  }
}

unsigned blocks_for(int64_t size) {
  return std::min<unsigned>(
      kMostBlocks, blocks_of(size, kThreads * kVector * kVectors));
}

}  // namespace

size_t rms_cap_bytes() {
  return sizeof(float2) * kMostBlocks;
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
    float* dgamma,
    cudaStream_t stream) {
  const unsigned blocks = blocks_for(p.size);
  rms_cap_partials<<<blocks, kThreads, 0, stream>>>(p, grad);
  rms_cap_backward_apply<<<blocks, kThreads, 0, stream>>>(
      p, grad, dcore, dgamma);
  return cudaGetLastError();
}

template cudaError_t rms_cap(const RmsCapLaunch&, float*, cudaStream_t);
template cudaError_t rms_cap(const RmsCapLaunch&, __nv_bfloat16*, cudaStream_t);
template cudaError_t rms_cap_backward(
    const RmsCapLaunch&, const float*, float*, float*, cudaStream_t);
template cudaError_t rms_cap_backward(
    const RmsCapLaunch&, const __nv_bfloat16*, float*, float*, cudaStream_t);

}  // namespace einforge::kernels::cuda
