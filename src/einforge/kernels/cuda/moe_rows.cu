#include "einforge/kernels/cuda/moe_rows.h"

#include "einforge/kernels/cuda/ceil_div.h"
#include "einforge/kernels/cuda/launch.h"
#include "einforge/kernels/cuda/moe_rows.cuh"
#include "einforge/kernels/cuda/ptx.cuh"

namespace einforge::kernels::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
// Of a sort: every block reads the counts of all.
constexpr int kSortThreads = 1024;
constexpr int kSortWarps = kSortThreads / 32;
constexpr unsigned kAll = 0xFFFFFFFFU;

__device__ __forceinline__ int bin_of(const MoeDispatchLaunch& p, int pair) {
  return __ldg(p.expert + pair) * p.bins + pair % p.bins;
}

// counts[block][bin] of each block's kSortThreads pairs.
__global__ void __launch_bounds__(kSortThreads)
    moe_count(const __grid_constant__ MoeDispatchLaunch p) {
  __shared__ int32_t count[kMoeExperts];
  const int bins = p.experts * p.bins;
  for (int b = static_cast<int>(threadIdx.x); b < bins; b += kSortThreads) {
    count[b] = 0;
  }
  ptx::launch_dependents();
  ptx::grid_dependency_sync();
  __syncthreads();
  const int pair = static_cast<int>(blockIdx.x * kSortThreads + threadIdx.x);
  if (pair < p.pairs) {
    atomicAdd(count + bin_of(p, pair), 1);
  }
  __syncthreads();
  int32_t* counts = static_cast<int32_t*>(p.workspace) +
                    static_cast<int64_t>(blockIdx.x) * bins;
  for (int b = static_cast<int>(threadIdx.x); b < bins; b += kSortThreads) {
    counts[b] = count[b];
  }
}

// Each pair's place: its bin's start, the bin's pairs of earlier blocks, of
// earlier warps and of earlier lanes.
__global__ void __launch_bounds__(kSortThreads)
    moe_place(const __grid_constant__ MoeDispatchLaunch p) {
  __shared__ int32_t total[kMoeExperts];
  __shared__ int32_t start[kMoeExperts];
  __shared__ int32_t warps[kSortWarps][kMoeExperts];
  const int bins = p.experts * p.bins;
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % 32;
  const int warp = thread / 32;
  const int blocks = static_cast<int>(gridDim.x);
  const int block = static_cast<int>(blockIdx.x);
  for (int b = thread; b < bins; b += kSortThreads) {
    total[b] = 0;
    start[b] = 0;
  }
  for (int i = thread; i < kSortWarps * bins; i += kSortThreads) {
    warps[i / bins][i % bins] = 0;
  }
  ptx::grid_dependency_sync();
  __syncthreads();
  // Integer sums: any order gives the same.
  const auto* counts = static_cast<const int32_t*>(p.workspace);
  for (int i = thread; i < blocks * bins; i += kSortThreads) {
    const int32_t count = counts[i];
    const int b = i % bins;
    atomicAdd(total + b, count);
    if (i / bins < block) {
      atomicAdd(start + b, count);
    }
  }
  const int pair = block * kSortThreads + thread;
  const int mine = pair < p.pairs ? bin_of(p, pair) : -1;
  const unsigned same = __match_any_sync(kAll, mine);
  const int rank = __popc(same & ((1U << lane) - 1));
  if (mine >= 0 && rank == 0) {
    warps[warp][mine] = __popc(same);
  }
  __syncthreads();
  if (warp == 0) {  // exclusive sums over the bins
    int32_t base = 0;
    for (int first = 0; first < bins; first += 32) {
      const int b = first + lane;
      const int32_t count = b < bins ? total[b] : 0;
      int32_t sum = count;
      for (int hop = 1; hop < 32; hop *= 2) {
        const int32_t other = __shfl_up_sync(kAll, sum, hop);
        sum += lane >= hop ? other : 0;
      }
      if (b < bins) {
        start[b] += base + sum - count;
        if (block == 0) {
          p.offsets[b] = base + sum - count;
        }
      }
      base += __shfl_sync(kAll, sum, 31);
    }
    if (block == 0 && lane == 0) {
      p.offsets[bins] = base;
    }
  }
  __syncthreads();
  if (mine >= 0) {
    int32_t place = start[mine] + rank;
    for (int w = 0; w < warp; ++w) {
      place += warps[w][mine];
    }
    p.order[place] = pair;
    if (p.gates != nullptr) {
      p.sorted_gates[place] = p.gates[pair];
    }
  }
}

// A warp has a token. A kernel of one or two experts is for exactly as many.
template <int kActive, bool kDots>
__global__ void __launch_bounds__(kThreads, 3)
    moe_combine_rows(const __grid_constant__ MoeCombineLaunch p) {
  const int active = kActive <= 2 ? kActive : p.active;
  const int64_t token = static_cast<int64_t>(blockIdx.x) * kWarps +
                        static_cast<int>(threadIdx.x) / 32;
  if (token >= p.tokens) {
    return;
  }
  const int vectors = p.width / 8;
  auto* sums = reinterpret_cast<uint4*>(p.sum) + token * vectors;
  float gates[kActive];
  float dots[kActive];
#pragma unroll
  for (int j = 0; j < kActive; ++j) {
    gates[j] = j < active ? p.gates[token * active + j] : 0.0F;
  }
  constexpr int kAtOnce = kActive <= 2 ? 4 : kActive <= 4 ? 2 : 1;
  sum_rows<kActive, kAtOnce, kDots>(
      reinterpret_cast<const uint4*>(p.rows) + token * active * vectors,
      reinterpret_cast<const uint4*>(p.other) + token * vectors,
      vectors,
      active,
      gates,
      dots,
      [&](int v, const uint4& sum) {
        if (p.sum != nullptr) {
          sums[v] = sum;
        }
      });
  if constexpr (kDots) {
#pragma unroll
    for (int j = 0; j < kActive; ++j) {
      if (threadIdx.x % 32 == 0 && j < active) {
        p.dots[token * active + j] = dots[j];
      }
    }
  }
}

template <bool kDots>
void launch_combine(const MoeCombineLaunch& p, cudaStream_t stream) {
  const auto kernel = p.active == 1   ? moe_combine_rows<1, kDots>
                      : p.active == 2 ? moe_combine_rows<2, kDots>
                      : p.active <= 4 ? moe_combine_rows<4, kDots>
                                      : moe_combine_rows<kMoeActive, kDots>;
  kernel<<<ceil_div(p.tokens, kWarps), kThreads, 0, stream>>>(p);
}

}  // namespace

size_t moe_dispatch_bytes(int pairs, int all_bins) {
  return sizeof(int32_t) * ceil_div(pairs, kSortThreads) *
         static_cast<size_t>(all_bins);
}

cudaError_t moe_dispatch(const MoeDispatchLaunch& p, cudaStream_t stream) {
  if (p.pairs <= 0 || p.experts < 1 || p.bins < 1 ||
      p.experts * p.bins > kMoeExperts) {
    return cudaErrorInvalidValue;
  }
  for (const auto kernel : {moe_count, moe_place}) {
    Launch launch(kSortThreads, 0, stream);
    if (pdl_supported()) {
      launch.enable_pdl();
    }
    const cudaError_t status =
        launch.run(kernel, ceil_div(p.pairs, kSortThreads), p);
    if (status != cudaSuccess) {
      return status;
    }
  }
  return cudaSuccess;
}

cudaError_t moe_combine(const MoeCombineLaunch& p, cudaStream_t stream) {
  if (p.tokens <= 0 || p.width % 8 != 0 || p.active < 1 ||
      p.active > kMoeActive) {
    return cudaErrorInvalidValue;
  }
  if (p.other != nullptr) {
    launch_combine<true>(p, stream);
  } else {
    launch_combine<false>(p, stream);
  }
  return cudaGetLastError();
}

}  // namespace einforge::kernels::cuda
