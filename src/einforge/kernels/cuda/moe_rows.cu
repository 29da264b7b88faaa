#include "einforge/kernels/cuda/moe_rows.h"

#include "einforge/kernels/cuda/blocks.h"

namespace einforge::kernels::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr unsigned kAll = 0xFFFFFFFFU;

__device__ __forceinline__ int bin_of(const MoeDispatchLaunch& p, int pair) {
  return __ldg(p.expert + pair) * p.bins + pair % p.bins;
}

// counts[block][bin] of each block's kThreads pairs.
__global__ void __launch_bounds__(kThreads)
    moe_count(const __grid_constant__ MoeDispatchLaunch p) {
  __shared__ int32_t count[kMoeExperts];
  const int bins = p.experts * p.bins;
  for (int b = static_cast<int>(threadIdx.x); b < bins; b += kThreads) {
    count[b] = 0;
  }
  __syncthreads();
  const int pair = static_cast<int>(blockIdx.x * kThreads + threadIdx.x);
  if (pair < p.pairs) {
    atomicAdd(count + bin_of(p, pair), 1);
  }
  __syncthreads();
  int32_t* counts = static_cast<int32_t*>(p.workspace) +
                    static_cast<int64_t>(blockIdx.x) * bins;
  for (int b = static_cast<int>(threadIdx.x); b < bins; b += kThreads) {
    counts[b] = count[b];
  }
}

// Each pair's place: its bin's start, the bin's pairs of earlier blocks, of
// earlier warps and of earlier lanes.
__global__ void __launch_bounds__(kThreads)
    moe_place(const __grid_constant__ MoeDispatchLaunch p) {
  __shared__ int32_t total[kMoeExperts];
  __shared__ int32_t start[kMoeExperts];
  __shared__ int32_t warps[kWarps][kMoeExperts];
  const int bins = p.experts * p.bins;
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % 32;
  const int warp = thread / 32;
  const int blocks = static_cast<int>(gridDim.x);
  const int block = static_cast<int>(blockIdx.x);
  for (int b = thread; b < bins; b += kThreads) {
    total[b] = 0;
    start[b] = 0;
  }
  for (int i = thread; i < kWarps * bins; i += kThreads) {
    warps[i / bins][i % bins] = 0;
  }
  __syncthreads();
  // Integer sums: any order gives the same.
  const auto* counts = static_cast<const int32_t*>(p.workspace);
  for (int i = thread; i < blocks * bins; i += kThreads) {
    const int32_t count = counts[i];
    const int b = i % bins;
    atomicAdd(total + b, count);
    if (i / bins < block) {
      atomicAdd(start + b, count);
    }
  }
  const int pair = block * kThreads + thread;
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

__device__ __forceinline__ void unpack(const uint4& v, float (&out)[8]) {
  const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    out[2 * i] = __uint_as_float(words[i] << 16);
    out[2 * i + 1] = __uint_as_float(words[i] & 0xFFFF0000U);
  }
}

// A warp has a token. A kernel of one or two experts is for exactly as many.
template <int kActive, bool kDots>
__global__ void __launch_bounds__(kThreads)
    moe_combine_rows(const __grid_constant__ MoeCombineLaunch p) {
  const int active = kActive <= 2 ? kActive : p.active;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t token = static_cast<int64_t>(blockIdx.x) * kWarps +
                        static_cast<int>(threadIdx.x) / 32;
  if (token >= p.tokens) {
    return;
  }
  const int vectors = p.width / 8;
  const auto* rows =
      reinterpret_cast<const uint4*>(p.rows) + token * active * vectors;
  [[maybe_unused]] const auto* others =
      reinterpret_cast<const uint4*>(p.other) + token * vectors;
  auto* sums = reinterpret_cast<uint4*>(p.sum) + token * vectors;
  float gate[kActive];
  [[maybe_unused]] float dot[kActive] = {};
#pragma unroll
  for (int j = 0; j < kActive; ++j) {
    gate[j] = j < active ? p.gates[token * active + j] : 0.0F;
  }
  // All that is loaded at once comes before what is stored, which the compiler
  // takes to be the same memory.
  constexpr int kAtOnce = kActive <= 2 ? 4 : kActive <= 4 ? 2 : 1;
#pragma unroll 1
  for (int base = lane; base < vectors; base += 32 * kAtOnce) {
    uint4 row[kAtOnce][kActive];
    [[maybe_unused]] uint4 other[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int v = base + 32 * i;
      if (v < vectors) {
#pragma unroll
        for (int j = 0; j < kActive; ++j) {
          if (j < active) {
            row[i][j] = __ldcs(rows + j * vectors + v);
          }
        }
        if constexpr (kDots) {
          other[i] = __ldg(others + v);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int v = base + 32 * i;
      if (v < vectors) {
        [[maybe_unused]] float factors[8];
        if constexpr (kDots) {
          unpack(other[i], factors);
        }
        float sum[8] = {};
#pragma unroll
        for (int j = 0; j < kActive; ++j) {
          if (j < active) {
            float values[8];
            unpack(row[i][j], values);
#pragma unroll
            for (int c = 0; c < 8; ++c) {
              sum[c] += gate[j] * values[c];
              if constexpr (kDots) {
                dot[j] += factors[c] * values[c];
              }
            }
          }
        }
        if (p.sum != nullptr) {
          alignas(16) __nv_bfloat162 out[4];
#pragma unroll
          for (int c = 0; c < 4; ++c) {
            out[c] = __floats2bfloat162_rn(sum[2 * c], sum[2 * c + 1]);
          }
          sums[v] = *reinterpret_cast<const uint4*>(out);
        }
      }
    }
  }
  if constexpr (kDots) {
#pragma unroll
    for (int j = 0; j < kActive; ++j) {
      for (int hop = 16; hop > 0; hop /= 2) {
        dot[j] += __shfl_xor_sync(kAll, dot[j], hop);
      }
      if (lane == 0 && j < active) {
        p.dots[token * active + j] = dot[j];
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
  kernel<<<blocks_of(p.tokens, kWarps), kThreads, 0, stream>>>(p);
}

}  // namespace

size_t moe_dispatch_bytes(int pairs, int all_bins) {
  return sizeof(int32_t) * blocks_of(pairs, kThreads) *
         static_cast<size_t>(all_bins);
}

cudaError_t moe_dispatch(const MoeDispatchLaunch& p, cudaStream_t stream) {
  if (p.pairs <= 0 || p.experts < 1 || p.bins < 1 ||
      p.experts * p.bins > kMoeExperts) {
    return cudaErrorInvalidValue;
  }
  const unsigned blocks = blocks_of(p.pairs, kThreads);
  moe_count<<<blocks, kThreads, 0, stream>>>(p);
  moe_place<<<blocks, kThreads, 0, stream>>>(p);
  return cudaGetLastError();
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
