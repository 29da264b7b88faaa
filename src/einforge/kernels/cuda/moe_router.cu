#include "einforge/kernels/cuda/moe_router.h"

#include <algorithm>

#include "einforge/kernels/cuda/ceil_div.h"
#include "einforge/kernels/cuda/moe_rows.h"
#include "einforge/kernels/cuda/moe_softmax.cuh"
#include "einforge/kernels/cuda/ptx.cuh"

namespace einforge::kernels::cuda {

namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;
constexpr int kTokens = 16 * kWarps;  // of a block
constexpr int kTerms = 3;
constexpr int kChunk = 64;            // of d
constexpr int kVectors = kChunk / 8;  // of a row of a chunk
constexpr int kRouteThreads = 128;
constexpr int kMostExperts = 64;  // of a block's scores

int groups_of(int experts) {
  return (experts + kMostExperts - 1) / kMostExperts;
}

int padded(int experts) {
  const int groups = groups_of(experts);
  return groups > 1 ? groups * kMostExperts : (experts + 7) / 8 * 8;
}

// weight = hi + mid + lo, each rounded to bfloat16: 24 bits. The terms of one
// group of experts come after the other's.
__global__ void __launch_bounds__(kThreads) split_weight(
    const float* __restrict__ weight,
    int64_t size,
    int64_t padded_size,
    int64_t group_size,
    __nv_bfloat16* __restrict__ terms) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= padded_size) {
    return;
  }
  float rest = i < size ? weight[i] : 0.0F;
  terms += i / group_size * (kTerms - 1) * group_size;
#pragma unroll
  for (int term = 0; term < kTerms; ++term) {
    const __nv_bfloat16 part = __float2bfloat16_rn(rest);
    terms[term * group_size + i] = part;
    rest -= __bfloat162float(part);
  }
}

// Above everything that is not NaN.
__device__ __forceinline__ bool better(float a, float b) {
  return a > b || (isnan(a) && !isnan(b));
}

__device__ __forceinline__ void route_token(
    const MoeRouteLaunch& p, int64_t token, const float* logits) {
  int chosen[kMoeActive];
  float values[kMoeActive];
#pragma unroll
  for (int j = 0; j < kMoeActive; ++j) {
    chosen[j] = -1;
    values[j] = 0.0F;
    if (j < p.active) {
      float best = 0.0F;
      for (int e = 0; e < p.experts; ++e) {
        bool taken = false;
#pragma unroll
        for (int i = 0; i < kMoeActive; ++i) {
          taken = taken || (i < j && chosen[i] == e);
        }
        const float logit = logits[e];
        const float score = logit + (p.bias == nullptr ? 0.0F : p.bias[e]);
        if (!taken && (chosen[j] < 0 || better(score, best))) {
          chosen[j] = e;
          best = score;
          values[j] = logit;
        }
      }
    }
  }
  Softmax softmax{values[0], 0.0F};
  if (p.softmax_first) {
    softmax = softmax_of_all(logits, p.experts);
  } else {
#pragma unroll
    for (int j = 1; j < kMoeActive; ++j) {
      softmax.most =
          j < p.active ? fmaxf(softmax.most, values[j]) : softmax.most;
    }
#pragma unroll
    for (int j = 0; j < kMoeActive; ++j) {
      softmax.sum += j < p.active ? expf(values[j] - softmax.most) : 0.0F;
    }
  }
#pragma unroll
  for (int j = 0; j < kMoeActive; ++j) {
    if (j < p.active) {
      p.chosen[token * p.active + j] = chosen[j];
      p.gates[token * p.active + j] = softmax.share(values[j]);
    }
  }
}

// A thread has a token.
__global__ void __launch_bounds__(kRouteThreads)
    route_kernel(const __grid_constant__ MoeRouteLaunch p) {
  const int64_t token =
      static_cast<int64_t>(blockIdx.x) * kRouteThreads + threadIdx.x;
  if (token < p.tokens) {
    route_token(p, token, p.logits + token * p.experts);
  }
}

// How the shared memory of a block is laid out: stages of a chunk of all terms
// and of the block's tokens, rows of 128 bytes whose vectors are exchanged by
// the row's number, so that 8 rows of ldmatrix are bank-conflict-free.
template <int kTiles>  // of eight experts
struct LogitsLayout {
  static constexpr int kTermRows = kTerms * kTiles * 8;
  static constexpr uint32_t kRowBytes = sizeof(uint4) * kVectors;
  static constexpr uint32_t kStageBytes = (kTermRows + kTokens) * kRowBytes;
  // What is loaded ahead, within the 99 KB of the smallest device.
  static constexpr int kStages = kTiles <= 2 ? 4 : kTiles <= 4 ? 3 : 2;
  static constexpr int kScores = kTiles * 8 + 1;  // of a token, padded
  static constexpr size_t kBytes = size_t{kStageBytes} * kStages;
  static_assert(sizeof(float) * kTokens * kScores <= kBytes);

  __device__ static uint32_t at(int row, int vector) {
    return row * kRowBytes +
           (vector ^ (row % kVectors)) * static_cast<uint32_t>(sizeof(uint4));
  }
};

// A block has 128 tokens, a warp 16 of them, and up to kMostExperts experts, of
// which the first is `first_expert`; d passes by.
template <int kTiles>
__global__ void __launch_bounds__(kThreads) logits_kernel(
    const __grid_constant__ MoeLogitsLaunch p,
    const __nv_bfloat16* __restrict__ terms,
    int first_expert) {
  using Layout = LogitsLayout<kTiles>;
  extern __shared__ uint4 shared[];
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % 32;
  const int warp = thread / 32;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kTokens;
  const int vectors = p.d / 8;
  const int chunks = (p.d + kChunk - 1) / kChunk;
  // What this thread copies: a vector of every 32nd row.
  constexpr int kApart = kThreads / kVectors;
  const int v = thread % kVectors;
  const int r = thread / kVectors;
  const auto* terms_from =
      reinterpret_cast<const uint4*>(terms) + r * vectors + v;
  const auto* x_from =
      reinterpret_cast<const uint4*>(p.x) + (first + r) * vectors + v;
  const int64_t rows = p.route.tokens - first - r;
  const uint32_t base = ptx::shared_address(shared);
  const uint32_t place = base + Layout::at(r, v);
  const auto copy = [&](int chunk) {
    if (chunk < chunks) {
      const uint32_t to = place + chunk % Layout::kStages * Layout::kStageBytes;
      const int column = chunk * kVectors;
      const bool inside = column + v < vectors;
#pragma unroll
      for (int i = 0; i * kApart < Layout::kTermRows; ++i) {
        if (i * kApart + r < Layout::kTermRows) {
          ptx::copy_async(
              to + i * kApart * Layout::kRowBytes,
              terms_from + i * kApart * vectors + column,
              inside);
        }
      }
#pragma unroll
      for (int i = 0; i * kApart < kTokens; ++i) {
        ptx::copy_async(
            to + (Layout::kTermRows + i * kApart) * Layout::kRowBytes,
            x_from + static_cast<int64_t>(i * kApart) * vectors + column,
            inside && i * kApart < rows);
      }
    }
    ptx::copy_async_commit();
  };
#pragma unroll
  for (int chunk = 0; chunk < Layout::kStages - 1; ++chunk) {
    copy(chunk);
  }
  float sums[kTiles][4] = {};
#pragma unroll 1
  for (int chunk = 0; chunk < chunks; ++chunk) {
    ptx::copy_async_wait<Layout::kStages - 2>();
    __syncthreads();  // this chunk is here, and nobody reads the one before
    copy(chunk + Layout::kStages - 1);
    const uint32_t stage = base + chunk % Layout::kStages * Layout::kStageBytes;
    const auto from = [&](int row, int vector) {
      return stage + Layout::at(row, vector);
    };
#pragma unroll
    for (int half = 0; half < kVectors / 4; ++half) {  // 32 of d
      uint4 x[2];
#pragma unroll
      for (int step = 0; step < 2; ++step) {
        ptx::load_matrix(
            from(
                Layout::kTermRows + warp * 16 + lane % 16,
                half * 4 + step * 2 + lane / 16),
            x[step].x,
            x[step].y,
            x[step].z,
            x[step].w);
      }
#pragma unroll
      for (int term = 0; term < kTerms; ++term) {
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) {
          uint4 w;
          ptx::load_matrix(
              from((term * kTiles + tile) * 8 + lane % 8, half * 4 + lane / 8),
              w.x,
              w.y,
              w.z,
              w.w);
          ptx::mma(sums[tile], x[0], w.x, w.y);
          ptx::mma(sums[tile], x[1], w.z, w.w);
        }
      }
    }
  }
  ptx::copy_async_wait<0>();
  __syncthreads();
  auto* scores = reinterpret_cast<float*>(shared);  // [kTokens][kScores]
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = warp * 16 + lane / 4 + i / 2 * 8;
      scores[row * Layout::kScores + tile * 8 + lane % 4 * 2 + i % 2] =
          sums[tile][i];
    }
  }
  __syncthreads();
  const int count =
      static_cast<int>(min(p.route.tokens - first, int64_t{kTokens}));
  const int all_experts = p.route.experts;
  const int experts = min(all_experts - first_expert, kTiles * 8);
  for (int i = thread; i < count * experts; i += kThreads) {
    const int token = i / experts;
    const int expert = i % experts;
    p.logits[(first + token) * all_experts + first_expert + expert] =
        scores[token * Layout::kScores + expert];
  }
  if (p.route.chosen != nullptr && thread < count) {
    route_token(p.route, first + thread, scores + thread * Layout::kScores);
  }
}

template <int kTiles>
cudaError_t launch_logits(
    const MoeLogitsLaunch& p,
    const __nv_bfloat16* terms,
    cudaStream_t stream,
    int first_expert = 0) {
  constexpr size_t kBytes = LogitsLayout<kTiles>::kBytes;
  const cudaError_t error = cudaFuncSetAttribute(
      logits_kernel<kTiles>,
      cudaFuncAttributeMaxDynamicSharedMemorySize,
      static_cast<int>(kBytes));
  if (error != cudaSuccess) {
    return error;
  }
  logits_kernel<kTiles>
      <<<ceil_div(p.route.tokens, kTokens), kThreads, kBytes, stream>>>(
          p, terms, first_expert);
  return cudaGetLastError();
}

bool valid(const MoeRouteLaunch& p) {
  return p.tokens > 0 && p.active >= 1 && p.active <= kMoeActive &&
         p.active <= p.experts;
}

}  // namespace

bool moe_router_supports(int experts, int d) {
  return d > 0 && d % 8 == 0 && experts >= 1 && experts <= kMoeExperts;
}

size_t moe_logits_bytes(int experts, int d) {
  return sizeof(__nv_bfloat16) * kTerms * padded(experts) *
         static_cast<size_t>(d);
}

cudaError_t moe_logits(const MoeLogitsLaunch& p, cudaStream_t stream) {
  const int experts = p.route.experts;
  if (!moe_router_supports(experts, p.d) || p.route.tokens <= 0 ||
      (p.route.chosen != nullptr && !valid(p.route))) {
    return cudaErrorInvalidValue;
  }
  auto* terms = static_cast<__nv_bfloat16*>(p.workspace);
  const int groups = groups_of(experts);
  const int64_t padded_size = static_cast<int64_t>(padded(experts)) * p.d;
  const int64_t group_size = padded_size / groups;
  split_weight<<<ceil_div(padded_size, kThreads), kThreads, 0, stream>>>(
      p.weight,
      static_cast<int64_t>(experts) * p.d,
      padded_size,
      group_size,
      terms);
  if (groups > 1) {
    MoeLogitsLaunch scores = p;
    scores.route.chosen = nullptr;
    for (int group = 0; group < groups; ++group) {
      const cudaError_t error = launch_logits<kMostExperts / 8>(
          scores,
          terms + group * kTerms * group_size,
          stream,
          group * kMostExperts);
      if (error != cudaSuccess) {
        return error;
      }
    }
    MoeRouteLaunch route = p.route;
    route.logits = p.logits;
    return route.chosen == nullptr ? cudaSuccess : moe_route(route, stream);
  }
  switch (padded(experts) / 8) {
    case 1:
      return launch_logits<1>(p, terms, stream);
    case 2:
      return launch_logits<2>(p, terms, stream);
    case 3:
      return launch_logits<3>(p, terms, stream);
    case 4:
      return launch_logits<4>(p, terms, stream);
    case 5:
      return launch_logits<5>(p, terms, stream);
    case 6:
      return launch_logits<6>(p, terms, stream);
    case 7:
      return launch_logits<7>(p, terms, stream);
    default:
      return launch_logits<8>(p, terms, stream);
  }
}

cudaError_t moe_route(const MoeRouteLaunch& p, cudaStream_t stream) {
  if (!valid(p)) {
    return cudaErrorInvalidValue;
  }
  route_kernel<<<ceil_div(p.tokens, kRouteThreads), kRouteThreads, 0, stream>>>(
      p);
  return cudaGetLastError();
}

}  // namespace einforge::kernels::cuda
