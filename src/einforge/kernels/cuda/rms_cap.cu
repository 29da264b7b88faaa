#include <algorithm>

#include "einforge/kernels/cuda/ceil_div.h"
#include "einforge/kernels/cuda/launch.h"
#include "einforge/kernels/cuda/rms_cap.h"
#include "einforge/kernels/cuda/vec4.cuh"

namespace einforge::kernels::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kVector = Vec4::kSize;
constexpr int kVectors = 4;  // of a thread, until there are kMostBlocks
// A thread of the next kernel has one partial sum.
constexpr int kMostBlocks = kThreads;
// A core of at most so many elements is one cluster's: one launch, not two.
constexpr int kCluster = 8;
constexpr int64_t kClusterSize =
    static_cast<int64_t>(kCluster) * kThreads * kVector * 4 * kVectors;

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

// Of the same variable in another block of the cluster (ptx::peer_address()).
__device__ __forceinline__ double2 load_peer(uint32_t peer) {
  double2 v{0.0, 0.0};
#if __CUDA_ARCH__ >= 900
  asm volatile("ld.shared::cluster.v2.f64 {%0, %1}, [%2];"
               : "=d"(v.x), "=d"(v.y)
               : "r"(peer)
               : "memory");
#endif
  return v;
}

// What y and the gradients are made of.
template <typename Core, typename Element>
struct RmsCapWork {
  RmsCapLaunch<Core> p;
  const Element* grad;  // null: y is asked for
  Element* y;
  Core* dcore;
  Core* dgain;  // or null
};

// core . core, and with a gradient grad . core, of this block.
template <typename Core, typename Element>
__device__ __forceinline__ double2
share_of_block(const RmsCapWork<Core, Element>& w) {
  double2 sum{0.0, 0.0};
  for_vectors(w.p.size, [&](int64_t at) {
    const Vec4 core = load(w.p.core, at, w.p.size);
    const Vec4 g = w.grad == nullptr ? Vec4{} : load(w.grad, at, w.p.size);
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      const double value = core.of[i];
      sum.x += value * value;
      sum.y += value * g.of[i];
    }
  });
  return sum_of_block(sum);
}

// With s = 1 / max(1, rms / max_rms) and n elements:
//   y      = gain s core
//   dcore  = gain s (grad - [rms > max_rms] core (grad . core) / (n rms^2))
//   dgain  = s (grad . core)
// @param sum of the whole core
template <typename Core, typename Element>
__device__ __forceinline__ void apply(
    const RmsCapWork<Core, Element>& w, double2 sum) {
  const RmsCapLaunch<Core>& p = w.p;
  const double excess = sqrt(sum.x / static_cast<double>(p.size)) / p.max_rms;
  // NaN where that is.
  const double s = 1.0 / (excess < 1.0 ? 1.0 : excess);
  const double scale =
      p.gain == nullptr ? s
                        : s * static_cast<double>(static_cast<float>(*p.gain));
  if (w.grad == nullptr) {
    for_vectors(p.size, [&](int64_t at) {
      Vec4 core = load(p.core, at, p.size);
      for (float& value : core.of) {
        value = static_cast<float>(scale * value);
      }
      store(w.y, at, p.size, core);
    });
    return;
  }
  const double along = excess > 1.0 ? sum.y / sum.x : 0.0;
  for_vectors(p.size, [&](int64_t at) {
    const Vec4 core = load(p.core, at, p.size);
    Vec4 g = load(w.grad, at, p.size);
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      g.of[i] = static_cast<float>(scale * (g.of[i] - along * core.of[i]));
    }
    store(w.dcore, at, p.size, g);
  });
  if (w.dgain != nullptr && blockIdx.x == 0 && threadIdx.x == 0) {
    *w.dgain = static_cast<Core>(static_cast<float>(s * sum.y));
  }
}

template <typename Core, typename Element>
__global__ void __launch_bounds__(kThreads)
    rms_cap_partials(const __grid_constant__ RmsCapWork<Core, Element> w) {
  const double2 sum = share_of_block(w);
  if (threadIdx.x == 0) {
    static_cast<double2*>(w.p.workspace)[blockIdx.x] = sum;
  }
}

// Its grid is that of the partial sums.
template <typename Core, typename Element>
__global__ void __launch_bounds__(kThreads)
    rms_cap_apply(const __grid_constant__ RmsCapWork<Core, Element> w) {
  const auto* partials = static_cast<const double2*>(w.p.workspace);
  apply(
      w,
      sum_of_block(
          threadIdx.x < gridDim.x ? partials[threadIdx.x] : double2{0.0, 0.0}));
}

// A small core by one cluster, whose blocks tell each other their sums.
template <typename Core, typename Element>
__global__ void __launch_bounds__(kThreads)
    rms_cap_cluster(const __grid_constant__ RmsCapWork<Core, Element> w) {
  __shared__ double2 own;
  const double2 share = share_of_block(w);
  if (threadIdx.x == 0) {
    own = share;
  }
  ptx::cluster_sync();
  double2 sum{0.0, 0.0};
  if (threadIdx.x < gridDim.x) {
    sum = load_peer(ptx::peer_address(ptx::shared_address(&own), threadIdx.x));
  }
  sum = sum_of_block(sum);
  ptx::cluster_sync();  // no block may leave while its sum is read
  apply(w, sum);
}

template <typename Core, typename Element>
cudaError_t launch(const RmsCapWork<Core, Element>& w, cudaStream_t stream) {
  if (w.p.size <= kClusterSize && pdl_supported()) {
    Launch configured(kThreads, 0, stream);
    configured.set_cluster(kCluster);
    return configured.run(rms_cap_cluster<Core, Element>, dim3(1), w);
  }
  const auto blocks = std::min<unsigned>(
      kMostBlocks, ceil_div(w.p.size, kThreads * kVector * kVectors));
  rms_cap_partials<<<blocks, kThreads, 0, stream>>>(w);
  rms_cap_apply<<<blocks, kThreads, 0, stream>>>(w);
  return cudaGetLastError();
}

}  // namespace

size_t rms_cap_bytes() {
  return sizeof(double2) * kMostBlocks;
}

template <typename Core, typename Element>
cudaError_t rms_cap(
    const RmsCapLaunch<Core>& p, Element* y, cudaStream_t stream) {
  return launch<Core, Element>({p, nullptr, y, nullptr, nullptr}, stream);
}

template <typename Core, typename Element>
cudaError_t rms_cap_backward(
    const RmsCapLaunch<Core>& p,
    const Element* grad,
    Core* dcore,
    Core* dgain,
    cudaStream_t stream) {
  return launch<Core, Element>({p, grad, nullptr, dcore, dgain}, stream);
}

#define EINFORGE_INSTANTIATE(Core, Element)               \
  template cudaError_t rms_cap(                           \
      const RmsCapLaunch<Core>&, Element*, cudaStream_t); \
  template cudaError_t rms_cap_backward(                  \
      const RmsCapLaunch<Core>&, const Element*, Core*, Core*, cudaStream_t)

EINFORGE_INSTANTIATE(float, float);
EINFORGE_INSTANTIATE(float, __nv_bfloat16);
EINFORGE_INSTANTIATE(__nv_bfloat16, __nv_bfloat16);

}  // namespace einforge::kernels::cuda
