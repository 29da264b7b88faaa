#include "einforge/kernels/cuda/moe_router_backward.h"

#include <algorithm>

#include "einforge/kernels/cuda/ceil_div.h"
#include "einforge/kernels/cuda/moe_rows.cuh"
#include "einforge/kernels/cuda/moe_rows.h"
#include "einforge/kernels/cuda/moe_softmax.cuh"
#include "einforge/kernels/cuda/ptx.cuh"
#include "einforge/kernels/cuda/vec8.cuh"

namespace einforge::kernels::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kWideThreads = 512;  // of a block that has a wide x
constexpr int kWideFrom = 2048;
constexpr int kTokens = 16;             // of a tile, the rows of an mma
constexpr int kSide = 16;               // of experts, an mma's depth or rows
constexpr int kMostSides = 4;           // of a block's sums of dweight
constexpr int kColumns = 32;            // of a step of dx
constexpr int kWideColumns = 64;        // of a warp of dweight
constexpr size_t kMostShared = 232448;  // of a block, where there are rows

// The gradient of dx has two terms of each factor (16 bits; dx has 8), that of
// the weight three of dlogits (24 bits).
constexpr int kDxTerms = 2;
constexpr int kWeightTerms = 3;

// What a router's gradient needs on the way; the parts of the workspace.
struct Layout {
  int tiles;   // of tokens
  int sides;   // of experts, whole parts of kMostSides
  int groups;  // of kColumns
  int column_blocks;
  int shares;  // of the tokens, each with a sum of dweight of its own

  Layout(int64_t tokens, int experts, int d)
      : tiles(static_cast<int>(ceil_div(tokens, kTokens))),
        sides(sides_of(experts)),
        groups(static_cast<int>(ceil_div(d, kColumns))),
        column_blocks(static_cast<int>(ceil_div(d, kWideColumns * kWarps))),
        // Two blocks for each multiprocessor of an H100.
        shares(std::clamp(
            264 / (column_blocks * side_blocks()), 1, std::max(tiles / 4, 1))) {
  }

  [[nodiscard]] int side_blocks() const {
    return (sides + kMostSides - 1) / kMostSides;
  }

  static int sides_of(int experts) {
    const auto sides = static_cast<int>(ceil_div(experts, kSide));
    return sides <= kMostSides
               ? sides
               : static_cast<int>(ceil_div(sides, kMostSides)) * kMostSides;
  }

  // All multiples of 16.
  [[nodiscard]] size_t weight_bytes() const {
    return size_t{1024} * kDxTerms * sides * groups;
  }
  [[nodiscard]] size_t dlogits_bytes() const {
    return size_t{512} * kWeightTerms * sides * tiles;
  }
  [[nodiscard]] size_t partial_bytes(int experts, int d) const {
    return sizeof(float) * shares * static_cast<size_t>(experts) * d;
  }
};

// The next bfloat16 term of a pair, which becomes what remains.
__device__ __forceinline__ uint32_t take_term(float& first, float& second) {
  const uint32_t pair = ptx::round_pair(first, second);
  first -= __uint_as_float(pair << 16);
  second -= __uint_as_float(pair & 0xFFFF0000U);
  return pair;
}

// d logit_e = share_e (d gate_e - sum_j gate_j d gate_j), share the softmax's:
// `rest` of the experts that are not chosen. `active` of the kActive are there.
template <int kActive>
__device__ __forceinline__ float gradient_of_logit(
    const int32_t* chosen,
    const float* gates,
    const float* dgates,
    int active,
    float mean,
    int expert,
    float rest) {
  float value = rest;
#pragma unroll
  for (int j = 0; j < kActive; ++j) {
    if (j < active && chosen[j] == expert) {
      value = gates[j] * (dgates[j] - mean);
    }
  }
  return value;
}

// A thread has a token.
__global__ void __launch_bounds__(kThreads) route_backward_kernel(
    const __grid_constant__ MoeRouteLaunch p,
    const float* __restrict__ dgates,
    float* __restrict__ dlogits) {
  const int64_t token =
      static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (token >= p.tokens) {
    return;
  }
  const float* logits = p.logits + token * p.experts;
  const int64_t pair = token * p.active;
  float mean = 0.0F;
  for (int j = 0; j < p.active; ++j) {
    mean += p.gates[pair + j] * dgates[pair + j];
  }
  const Softmax softmax =
      p.softmax_first ? softmax_of_all(logits, p.experts) : Softmax{};
  for (int e = 0; e < p.experts; ++e) {
    dlogits[token * p.experts + e] = gradient_of_logit<kMoeActive>(
        p.chosen + pair,
        p.gates + pair,
        dgates + pair,
        p.active,
        mean,
        e,
        p.softmax_first ? -mean * softmax.share(logits[e]) : 0.0F);
  }
}

// The weight as the right factors of mma: a lane has, for 16 experts and 32
// columns, four tiles of eight columns. Column m of tile i is column
// 8 (m / 2) + 2 i + m % 2, so that of the product a lane has eight neighbours.
__global__ void __launch_bounds__(kThreads) pack_weight(
    const float* __restrict__ weight,
    int experts,
    int d,
    int groups,
    int sides,
    uint4* __restrict__ packed) {  // [side][group][term][2][lane]
  const int i = static_cast<int>(blockIdx.x * kThreads + threadIdx.x);
  const int lane = i % 32;
  const int group = i / 32 % groups;
  const int side = i / 32 / groups;
  if (side >= sides) {
    return;
  }
  const int m = lane / 4;
  uint32_t words[kDxTerms][8];
#pragma unroll
  for (int tile = 0; tile < 4; ++tile) {
    const int column = group * kColumns + 8 * (m / 2) + 2 * tile + m % 2;
#pragma unroll
    for (int high = 0; high < 2; ++high) {
      float pair[2];
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        const int expert = side * kSide + lane % 4 * 2 + high * 8 + k;
        pair[k] = expert < experts && column < d
                      ? weight[static_cast<int64_t>(expert) * d + column]
                      : 0.0F;
      }
#pragma unroll
      for (int term = 0; term < kDxTerms; ++term) {
        words[term][2 * tile + high] = take_term(pair[0], pair[1]);
      }
    }
  }
  uint4* to = packed + static_cast<int64_t>(i / 32) * (kDxTerms * 2 * 32);
#pragma unroll
  for (int term = 0; term < kDxTerms; ++term) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint32_t* w = words[term] + 4 * half;
      to[(term * 2 + half) * 32 + lane] = {w[0], w[1], w[2], w[3]};
    }
  }
}

struct TokensArguments {
  MoeRouterBackwardLaunch p;
  const uint4* weight = nullptr;  // of pack_weight, or null with dx
  uint4* dlogits = nullptr;       // [tile][side][term][lane], or null
  int sides = 1;
};

// What a block of sixteen tokens holds besides the sums of their rows.
struct TokensShared {
  int sides;
  uint4* left;     // [side][term][lane], dlogits as left factors
  float* dlogits;  // [token][expert], padded by one

  __host__ __device__ static constexpr size_t bytes(int sides) {
    return sizeof(uint4) * static_cast<size_t>(sides) * kDxTerms * 32 +
           sizeof(float) * kTokens * static_cast<size_t>(sides * kSide + 1);
  }
  __device__ TokensShared(uint4* from, int side_count)
      : sides(side_count),
        left(from),
        dlogits(reinterpret_cast<float*>(from + side_count * kDxTerms * 32)) {}
  __device__ float* row(int token) const {
    return dlogits + token * (sides * kSide + 1);
  }
};

// By a warp: sum_j gates r of a token into `held`, rounded, and its dlogits,
// which are zero past the last token. kActive 0: no rows.
template <int kActive, int kAtOnce>
__device__ __forceinline__ void take_token(
    const MoeRouterBackwardLaunch& p,
    int64_t token,
    int sides,
    uint4* held,
    float* dlogits) {
  const MoeRouteLaunch& route = p.route;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const bool exists = token < route.tokens;
  token = min(token, route.tokens - 1);
  // A kernel of one or two experts is for exactly as many.
  [[maybe_unused]] const int active = kActive <= 2 ? kActive : route.active;
  constexpr int kSlots = kActive > 0 ? kActive : 1;
  [[maybe_unused]] int32_t chosen[kSlots];
  [[maybe_unused]] float gates[kSlots];
  [[maybe_unused]] float dgates[kSlots];
  [[maybe_unused]] float mean = 0.0F;
  [[maybe_unused]] Softmax softmax{};
  if constexpr (kActive > 0) {
    const int64_t pair = token * active;
#pragma unroll
    for (int j = 0; j < kActive; ++j) {
      chosen[j] = j < active ? __ldg(route.chosen + pair + j) : -1;
      gates[j] = j < active ? __ldg(route.gates + pair + j) : 0.0F;
    }
    const int vectors = p.d / 8;
    sum_rows<kActive, kAtOnce, /*kDots=*/true>(
        reinterpret_cast<const uint4*>(p.rows) + pair * vectors,
        reinterpret_cast<const uint4*>(p.x) + token * vectors,
        vectors,
        active,
        gates,
        dgates,
        [&](int v, const uint4& sum) {
          if (exists && p.dx != nullptr) {
            held[v] = sum;
          }
        });
#pragma unroll
    for (int j = 0; j < kActive; ++j) {
      if (p.dgates != nullptr && j < active) {
        dgates[j] += __ldg(p.dgates + pair + j);
      }
      mean += gates[j] * dgates[j];
    }
    if (route.softmax_first) {
      softmax =
          softmax_of_all(route.logits + token * route.experts, route.experts);
    }
  }
  for (int e = lane; e < sides * kSide; e += 32) {
    float value = 0.0F;
    if (exists && e < route.experts) {
      const int64_t at = token * route.experts + e;
      value = p.dlogits == nullptr ? 0.0F : p.dlogits[at];
      if constexpr (kActive > 0) {
        value += gradient_of_logit<kActive>(
            chosen,
            gates,
            dgates,
            active,
            mean,
            e,
            route.softmax_first ? -mean * softmax.share(route.logits[at])
                                : 0.0F);
      }
    }
    dlogits[e] = value;
  }
}

// Vectors from one token's sums to the next's in shared memory: the next four
// of sixteen bytes are in other banks.
__host__ __device__ constexpr int held_stride(int vectors) {
  return vectors | 4;
}

// A block has sixteen tokens and all of d. The sums of their rows wait in
// shared memory or, where they do not fit, in dx.
template <int kActive, int kBlockThreads, bool kInMemory>
__global__ void __launch_bounds__(kBlockThreads)
    tokens_kernel(const __grid_constant__ TokensArguments a) {
  extern __shared__ uint4 shared[];
  const MoeRouterBackwardLaunch& p = a.p;
  constexpr int kBlockWarps = kBlockThreads / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int row = lane / 4;
  const int q = lane % 4;
  const int tile = static_cast<int>(blockIdx.x);
  const int64_t first = static_cast<int64_t>(tile) * kTokens;
  const int sides = a.sides;
  const TokensShared s(shared, sides);
  const int vectors = p.d / 8;
  const int stride = kInMemory ? vectors : held_stride(vectors);
  uint4* held = kInMemory ? reinterpret_cast<uint4*>(p.dx) + first * vectors
                          : shared + TokensShared::bytes(sides) / sizeof(uint4);
  // What keeps memory busy: a wide x leaves room for one block.
  constexpr int kAtOnce = kActive > 2 ? 1 : kBlockThreads > kThreads ? 4 : 2;
#pragma unroll 1
  for (int t = warp; t < kTokens; t += kBlockWarps) {
    take_token<kActive, kAtOnce>(
        p, first + t, sides, held + t * stride, s.row(t));
  }
  __syncthreads();
  // The first warps: dlogits as left factors of dx; the last: transposed, of
  // dweight.
#pragma unroll 1
  for (int side = warp; side < sides; side += kBlockWarps) {
    const auto pair = [&](int t, int e) {
      return make_float2(s.row(t)[e], s.row(t)[e + 1]);
    };
    const int e = side * kSide + 2 * q;
    float2 pairs[4] = {
        pair(row, e), pair(row + 8, e), pair(row, e + 8), pair(row + 8, e + 8)};
#pragma unroll
    for (int term = 0; term < kDxTerms; ++term) {
      uint32_t words[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        words[i] = take_term(pairs[i].x, pairs[i].y);
      }
      s.left[(side * kDxTerms + term) * 32 + lane] = {
          words[0], words[1], words[2], words[3]};
    }
  }
#pragma unroll 1
  for (int side = kBlockWarps - 1 - warp; a.dlogits != nullptr && side < sides;
       side += kBlockWarps) {
    const auto pair = [&](int t, int e) {
      return make_float2(s.row(t)[e], s.row(t + 1)[e]);
    };
    const int e = side * kSide + row;
    float2 pairs[4] = {
        pair(2 * q, e),
        pair(2 * q, e + 8),
        pair(2 * q + 8, e),
        pair(2 * q + 8, e + 8)};
    uint4* to = a.dlogits + (static_cast<int64_t>(tile) * sides + side) *
                                (kWeightTerms * 32);
#pragma unroll
    for (int term = 0; term < kWeightTerms; ++term) {
      uint32_t words[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        words[i] = take_term(pairs[i].x, pairs[i].y);
      }
      to[term * 32 + lane] = {words[0], words[1], words[2], words[3]};
    }
  }
  if (p.dx == nullptr) {
    return;
  }
  __syncthreads();
  // Second pass: the products, and what is held. A warp takes two groups at a
  // time, whose columns fill lines of memory.
  const int groups = (p.d + kColumns - 1) / kColumns;
  for (int n = warp; n * 2 < groups; n += kBlockWarps) {
#pragma unroll
    for (int group = 2 * n; group < min(2 * n + 2, groups); ++group) {
      float sums[4][4] = {};
#pragma unroll 1
      for (int i = 0; i < sides; ++i) {
        const uint4* from =
            a.weight +
            (static_cast<int64_t>(i) * groups + group) * (kDxTerms * 2 * 32) +
            lane;
        uint4 w[kDxTerms][2];
#pragma unroll
        for (int term = 0; term < kDxTerms; ++term) {
          w[term][0] = __ldg(from + term * 64);
          w[term][1] = __ldg(from + term * 64 + 32);
        }
        const uint4 high = s.left[i * kDxTerms * 32 + lane];
        const uint4 low = s.left[(i * kDxTerms + 1) * 32 + lane];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float(&even)[4] = sums[2 * half];
          float(&odd)[4] = sums[2 * half + 1];
          ptx::mma(even, low, w[0][half].x, w[0][half].y);
          ptx::mma(odd, low, w[0][half].z, w[0][half].w);
          ptx::mma(even, high, w[1][half].x, w[1][half].y);
          ptx::mma(odd, high, w[1][half].z, w[1][half].w);
          ptx::mma(even, high, w[0][half].x, w[0][half].y);
          ptx::mma(odd, high, w[0][half].z, w[0][half].w);
        }
      }
      const int v = group * 4 + q;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int t = row + 8 * half;
        if (v < vectors && first + t < p.route.tokens) {
          Vec8 value{};
          if constexpr (kActive > 0) {
            value = Vec8::load(held[t * stride + v]);
          }
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            value.of[2 * i] += sums[i][2 * half];
            value.of[2 * i + 1] += sums[i][2 * half + 1];
          }
          reinterpret_cast<uint4*>(p.dx)[(first + t) * vectors + v] =
              value.rounded();
        }
      }
    }
  }
}

// A warp has 64 columns of every expert's sum over a share of the tokens. A
// lane reads eight neighbours along d of four tokens of a tile: the right
// factors of eight mmas, column n of the i-th being column 8 n + i. Of all
// sides a block has kSides.
template <int kSides>
__global__ void __launch_bounds__(kThreads) dweight_kernel(
    const uint4* __restrict__ dlogits,  // [tile][side][term][lane]
    int all_sides,
    const __nv_bfloat16* __restrict__ x,
    int64_t tokens,
    int tiles,
    int experts,
    int d,
    float* __restrict__ partials) {  // (shares, experts, d)
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int row = lane / 4;
  const int q = lane % 4;
  const int base = static_cast<int>(blockIdx.y * kWarps + warp) * kWideColumns;
  if (base >= d) {
    return;
  }
  const int vectors = d / 8;
  const auto* from =
      reinterpret_cast<const uint4*>(x) + min(base / 8 + row, vectors - 1);
  const int first_side = static_cast<int>(blockIdx.z) * kSides;
  const int share = static_cast<int>(blockIdx.x);
  const int shares = static_cast<int>(gridDim.x);
  const auto begin = static_cast<int>(int64_t{tiles} * share / shares);
  const auto end = static_cast<int>(int64_t{tiles} * (share + 1) / shares);
  float sums[kSides][8][4] = {};
#pragma unroll(kSides <= 1 ? 2 : 1)
  for (int tile = begin; tile < end; ++tile) {
    const int64_t first = int64_t{tile} * kTokens + 2 * q;
    uint32_t word[4][4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      // dlogits are zero past the last token.
      const int64_t token = min(first + i % 2 + i / 2 * 8, tokens - 1);
      const uint4 v = __ldg(from + token * vectors);
      word[i][0] = v.x;
      word[i][1] = v.y;
      word[i][2] = v.z;
      word[i][3] = v.w;
    }
#pragma unroll
    for (int side = 0; side < kSides; ++side) {
      uint4 left[kWeightTerms];
#pragma unroll
      for (int term = 0; term < kWeightTerms; ++term) {
        left[term] = __ldg(
            dlogits +
            ((static_cast<int64_t>(tile) * all_sides + first_side + side) *
                 kWeightTerms +
             term) *
                32 +
            lane);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint32_t low[2] = {
            ptx::low_pair(word[0][i], word[1][i]),
            ptx::low_pair(word[2][i], word[3][i])};
        const uint32_t high[2] = {
            ptx::high_pair(word[0][i], word[1][i]),
            ptx::high_pair(word[2][i], word[3][i])};
#pragma unroll
        for (int term = kWeightTerms - 1; term >= 0; --term) {
          ptx::mma(sums[side][2 * i], left[term], low[0], low[1]);
          ptx::mma(sums[side][2 * i + 1], left[term], high[0], high[1]);
        }
      }
    }
  }
#pragma unroll
  for (int side = 0; side < kSides; ++side) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int expert = (first_side + side) * kSide + row + i / 2 * 8;
      const int column = base + 16 * q + i % 2 * 8;
      if (expert < experts && column < d) {
        auto* to = reinterpret_cast<float4*>(
            partials + (static_cast<int64_t>(share) * experts + expert) * d +
            column);
        const auto& sum = sums[side];
        to[0] = {sum[0][i], sum[1][i], sum[2][i], sum[3][i]};
        to[1] = {sum[4][i], sum[5][i], sum[6][i], sum[7][i]};
      }
    }
  }
}

// A block has 128 neighbours, a warp every eighth sum of them.
__global__ void __launch_bounds__(kThreads) add_partials(
    const float4* __restrict__ partials,
    int count,
    int64_t size,  // of four floats
    float4* __restrict__ out) {
  __shared__ float4 shared[kWarps][32];
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * 32 + lane;
  float4 sum{0.0F, 0.0F, 0.0F, 0.0F};
  const auto add = [&](const float4& v) {
    sum.x += v.x;
    sum.y += v.y;
    sum.z += v.z;
    sum.w += v.w;
  };
  if (i < size) {
#pragma unroll 8
    for (int n = warp; n < count; n += kWarps) {
      add(partials[n * size + i]);
    }
  }
  shared[warp][lane] = sum;
  __syncthreads();
  if (warp == 0 && i < size) {
#pragma unroll
    for (int w = 1; w < kWarps; ++w) {
      add(shared[w][lane]);
    }
    out[i] = sum;
  }
}

template <int kActive>
cudaError_t launch_tokens(
    const TokensArguments& a, const Layout& layout, cudaStream_t stream) {
  const bool wide = a.p.d > kWideFrom;
  size_t bytes = TokensShared::bytes(layout.sides);
  const size_t held = kActive > 0 && a.p.dx != nullptr
                          ? sizeof(uint4) * kTokens *
                                static_cast<size_t>(held_stride(a.p.d / 8))
                          : 0;
  const bool in_memory = bytes + held > kMostShared;
  const auto kernel = in_memory ? tokens_kernel<kActive, kWideThreads, true>
                      : wide    ? tokens_kernel<kActive, kWideThreads, false>
                                : tokens_kernel<kActive, kThreads, false>;
  if (!in_memory) {
    bytes += held;
  }
  const cudaError_t error = cudaFuncSetAttribute(
      kernel,
      cudaFuncAttributeMaxDynamicSharedMemorySize,
      static_cast<int>(bytes));
  if (error != cudaSuccess) {
    return error;
  }
  kernel<<<
      static_cast<unsigned>(layout.tiles),
      wide ? kWideThreads : kThreads,
      bytes,
      stream>>>(a);
  return cudaGetLastError();
}

cudaError_t launch_tokens(
    const TokensArguments& a, const Layout& layout, cudaStream_t stream) {
  const int active = a.p.route.active;
  if (a.p.rows == nullptr) {
    return launch_tokens<0>(a, layout, stream);
  }
  if (active == 1) {
    return launch_tokens<1>(a, layout, stream);
  }
  if (active == 2) {
    return launch_tokens<2>(a, layout, stream);
  }
  if (active <= 4) {
    return launch_tokens<4>(a, layout, stream);
  }
  return launch_tokens<kMoeActive>(a, layout, stream);
}

cudaError_t launch_dweight(
    const MoeRouterBackwardLaunch& p,
    const Layout& layout,
    const uint4* dlogits,
    float* partials,
    cudaStream_t stream) {
  const dim3 grid(
      static_cast<unsigned>(layout.shares),
      static_cast<unsigned>(layout.column_blocks),
      static_cast<unsigned>(layout.side_blocks()));
  const auto launch = [&](auto kernel) {
    kernel<<<grid, kThreads, 0, stream>>>(
        dlogits,
        layout.sides,
        p.x,
        p.route.tokens,
        layout.tiles,
        p.route.experts,
        p.d,
        partials);
  };
  switch (layout.sides) {
    case 1:
      launch(dweight_kernel<1>);
      break;
    case 2:
      launch(dweight_kernel<2>);
      break;
    case 3:
      launch(dweight_kernel<3>);
      break;
    default:
      launch(dweight_kernel<kMostSides>);
      break;
  }
  const int64_t size = static_cast<int64_t>(p.route.experts) * p.d / 4;
  add_partials<<<ceil_div(size, 32), kThreads, 0, stream>>>(
      reinterpret_cast<const float4*>(partials),
      layout.shares,
      size,
      reinterpret_cast<float4*>(p.dweight));
  return cudaGetLastError();
}

}  // namespace

size_t moe_router_backward_bytes(int64_t tokens, int experts, int d) {
  const Layout layout(tokens, experts, d);
  return layout.weight_bytes() + layout.dlogits_bytes() +
         layout.partial_bytes(experts, d);
}

cudaError_t moe_router_backward(
    const MoeRouterBackwardLaunch& p, cudaStream_t stream) {
  const MoeRouteLaunch& route = p.route;
  if (!moe_router_supports(route.experts, p.d) || route.tokens <= 0 ||
      (p.rows == nullptr && p.dlogits == nullptr) ||
      (p.rows != nullptr && (route.active < 1 || route.active > kMoeActive))) {
    return cudaErrorInvalidValue;
  }
  const Layout layout(route.tokens, route.experts, p.d);
  auto* workspace = static_cast<std::byte*>(p.workspace);
  auto* weight = reinterpret_cast<uint4*>(workspace);
  auto* dlogits = reinterpret_cast<uint4*>(workspace + layout.weight_bytes());
  auto* partials = reinterpret_cast<float*>(
      workspace + layout.weight_bytes() + layout.dlogits_bytes());
  if (p.dx != nullptr) {
    const int64_t threads = int64_t{32} * layout.groups * layout.sides;
    pack_weight<<<ceil_div(threads, kThreads), kThreads, 0, stream>>>(
        p.weight, route.experts, p.d, layout.groups, layout.sides, weight);
  }
  const cudaError_t error = launch_tokens(
      {.p = p,
       .weight = weight,
       .dlogits = p.dweight == nullptr ? nullptr : dlogits,
       .sides = layout.sides},
      layout,
      stream);
  if (error != cudaSuccess || p.dweight == nullptr) {
    return error;
  }
  return launch_dweight(p, layout, dlogits, partials, stream);
}

cudaError_t moe_route_backward(
    const MoeRouteLaunch& p,
    const float* dgates,
    float* dlogits,
    cudaStream_t stream) {
  if (p.tokens <= 0 || p.active < 1 || p.active > kMoeActive) {
    return cudaErrorInvalidValue;
  }
  route_backward_kernel<<<ceil_div(p.tokens, kThreads), kThreads, 0, stream>>>(
      p, dgates, dlogits);
  return cudaGetLastError();
}

}  // namespace einforge::kernels::cuda
