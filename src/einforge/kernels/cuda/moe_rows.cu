#include "einforge/kernels/cuda/moe_rows.h"

#include "einforge/kernels/cuda/blocks.h"

namespace einforge::kernels::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr unsigned kAll = 0xFFFFFFFFU;

// counts[block][expert] of each block's kThreads pairs.
__global__ void __launch_bounds__(kThreads) moe_count(
    const int32_t* __restrict__ expert,
    int pairs,
    int experts,
    int32_t* __restrict__ counts) {
  __shared__ int32_t count[kMoeExperts];
  for (int e = static_cast<int>(threadIdx.x); e < experts; e += kThreads) {
    count[e] = 0;
  }
  __syncthreads();
  const int pair = static_cast<int>(blockIdx.x * kThreads + threadIdx.x);
  if (pair < pairs) {
    atomicAdd(count + expert[pair], 1);
  }
  __syncthreads();
  for (int e = static_cast<int>(threadIdx.x); e < experts; e += kThreads) {
    counts[static_cast<int64_t>(blockIdx.x) * experts + e] = count[e];
  }
}

// Each pair's place: its expert's start, the expert's pairs of earlier blocks,
// of earlier warps and of earlier lanes.
__global__ void __launch_bounds__(kThreads) moe_place(
    const int32_t* __restrict__ expert,
    int pairs,
    int experts,
    const int32_t* __restrict__ counts,
    int32_t* __restrict__ offsets,
    int32_t* __restrict__ order) {
  __shared__ int32_t total[kMoeExperts];
  __shared__ int32_t start[kMoeExperts];
  __shared__ int32_t warps[kWarps][kMoeExperts];
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % 32;
  const int warp = thread / 32;
  const int blocks = static_cast<int>(gridDim.x);
  const int block = static_cast<int>(blockIdx.x);
  for (int e = thread; e < experts; e += kThreads) {
    total[e] = 0;
    start[e] = 0;
  }
  for (int i = thread; i < kWarps * experts; i += kThreads) {
    warps[i / experts][i % experts] = 0;
  }
  __syncthreads();
  // Integer sums: any order gives the same.
  for (int i = thread; i < blocks * experts; i += kThreads) {
    const int32_t count = counts[i];
    const int e = i % experts;
    atomicAdd(total + e, count);
    if (i / experts < block) {
      atomicAdd(start + e, count);
    }
  }
  const int pair = block * kThreads + thread;
  const int mine = pair < pairs ? expert[pair] : -1;
  const unsigned same = __match_any_sync(kAll, mine);
  const int rank = __popc(same & ((1U << lane) - 1));
  if (mine >= 0 && rank == 0) {
    warps[warp][mine] = __popc(same);
  }
  __syncthreads();
  if (warp == 0) {  // exclusive sums over the experts
    int32_t base = 0;
    for (int first = 0; first < experts; first += 32) {
      const int e = first + lane;
      const int32_t count = e < experts ? total[e] : 0;
      int32_t sum = count;
      for (int hop = 1; hop < 32; hop *= 2) {
        const int32_t other = __shfl_up_sync(kAll, sum, hop);
        sum += lane >= hop ? other : 0;
      }
      if (e < experts) {
        start[e] += base + sum - count;
        if (block == 0) {
          offsets[e] = base + sum - count;
        }
      }
      base += __shfl_sync(kAll, sum, 31);
    }
    if (block == 0 && lane == 0) {
      offsets[experts] = base;
    }
  }
  __syncthreads();
  if (mine >= 0) {
    int32_t place = start[mine] + rank;
    for (int w = 0; w < warp; ++w) {
      place += warps[w][mine];
    }
    order[place] = pair;
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

// A warp has a token.
template <int kActive>
__global__ void __launch_bounds__(kThreads)
    moe_combine_rows(const __grid_constant__ MoeCombineLaunch p) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t token = static_cast<int64_t>(blockIdx.x) * kWarps +
                        static_cast<int>(threadIdx.x) / 32;
  if (token >= p.tokens) {
    return;
  }
  const int vectors = p.width / 8;
  const auto* rows =
      reinterpret_cast<const uint4*>(p.rows) + token * p.active * vectors;
  float gate[kActive];
  float dot[kActive] = {};
#pragma unroll
  for (int j = 0; j < kActive; ++j) {
    gate[j] = j < p.active ? p.gates[token * p.active + j] : 0.0F;
  }
#pragma unroll(kActive <= 2 ? 2 : 1)
  for (int v = lane; v < vectors; v += 32) {
    float other[8] = {};
    if (p.other != nullptr) {
      unpack(
          reinterpret_cast<const uint4*>(p.other)[token * vectors + v], other);
    }
    float sum[8] = {};
#pragma unroll
    for (int j = 0; j < kActive; ++j) {
      if (j < p.active) {
        float row[8];
        unpack(__ldcs(rows + static_cast<int64_t>(j) * vectors + v), row);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          sum[i] += gate[j] * row[i];
          dot[j] += other[i] * row[i];
        }
      }
    }
    if (p.sum != nullptr) {
      alignas(16) __nv_bfloat162 out[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        out[i] = __floats2bfloat162_rn(sum[2 * i], sum[2 * i + 1]);
      }
      reinterpret_cast<uint4*>(p.sum)[token * vectors + v] =
          *reinterpret_cast<const uint4*>(out);
    }
  }
  if (p.dots != nullptr) {
#pragma unroll
    for (int j = 0; j < kActive; ++j) {
      for (int hop = 16; hop > 0; hop /= 2) {
        dot[j] += __shfl_xor_sync(kAll, dot[j], hop);
      }
      if (lane == 0 && j < p.active) {
        p.dots[token * p.active + j] = dot[j];
      }
    }
  }
}

}  // namespace

size_t moe_dispatch_bytes(int pairs, int experts) {
  return sizeof(int32_t) * blocks_of(pairs, kThreads) *
         static_cast<size_t>(experts);
}

cudaError_t moe_dispatch(
    const int32_t* expert,
    int pairs,
    int experts,
    void* workspace,
    int32_t* offsets,
    int32_t* order,
    cudaStream_t stream) {
  if (pairs <= 0 || experts < 1 || experts > kMoeExperts) {
    return cudaErrorInvalidValue;
  }
  auto* counts = static_cast<int32_t*>(workspace);
  const unsigned blocks = blocks_of(pairs, kThreads);
  moe_count<<<blocks, kThreads, 0, stream>>>(expert, pairs, experts, counts);
  moe_place<<<blocks, kThreads, 0, stream>>>(
      expert, pairs, experts, counts, offsets, order);
  return cudaGetLastError();
}

cudaError_t moe_combine(const MoeCombineLaunch& p, cudaStream_t stream) {
  if (p.tokens <= 0 || p.width % 8 != 0 || p.active < 1 ||
      p.active > kMoeActive) {
    return cudaErrorInvalidValue;
  }
  const unsigned blocks = blocks_of(p.tokens, kWarps);
  if (p.active <= 2) {
    moe_combine_rows<2><<<blocks, kThreads, 0, stream>>>(p);
  } else {
    moe_combine_rows<kMoeActive><<<blocks, kThreads, 0, stream>>>(p);
  }
  return cudaGetLastError();
}

}  // namespace einforge::kernels::cuda
