#include "einforge/kernels/cuda/moe_router.h"

#include <algorithm>

#include "einforge/kernels/cuda/ceil_div.h"
#include "einforge/kernels/cuda/launch.h"
#include "einforge/kernels/cuda/moe_rows.h"
#include "einforge/kernels/cuda/moe_softmax.cuh"
#include "einforge/kernels/cuda/ptx.cuh"

namespace einforge::kernels::cuda {

namespace {

constexpr int kSplitThreads = 128;
constexpr int kTerms = 3;
constexpr int kChunk = 64;            // of d
constexpr int kVectors = kChunk / 8;  // of a row of a chunk
constexpr int kRouteThreads = 128;
// Of a block's scores, where many tokens share what L2 gives of the weight, and
// within the shared memory of the smallest device.
constexpr int kMostExperts = 128;
constexpr int kFewExperts = 64;
constexpr int kSmallestShared = 99 * 1024;

int groups_of(int experts, int most) {
  return (experts + most - 1) / most;
}

// Eights of experts that there is a kernel for.
constexpr int kTileCounts[] = {1, 2, 3, 4, 6, 8, 12, 16};

int tiles_of(int experts) {
  return *std::ranges::find_if(
      kTileCounts, [&](int tiles) { return 8 * tiles >= experts; });
}

// Of the terms: the experts of one group, or all.
int padded(int experts, int most) {
  const int groups = groups_of(experts, most);
  return groups > 1 ? groups * most : 8 * tiles_of(experts);
}

// weight = hi + mid + lo, each rounded to bfloat16: 24 bits. The terms of one
// group of experts come after the other's.
__global__ void __launch_bounds__(kSplitThreads) split_weight(
    const float* __restrict__ weight,
    int64_t size,
    int64_t padded_size,
    int64_t group_size,
    __nv_bfloat16* __restrict__ terms) {
  const int64_t i =
      static_cast<int64_t>(blockIdx.x) * kSplitThreads + threadIdx.x;
  ptx::launch_dependents();
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

// The experts with the best scores, the best first; of equal ones the first.
template <int kActive>
struct Best {
  int expert[kActive];
  float score[kActive];
  float logit[kActive];

  __device__ __forceinline__ Best() {
#pragma unroll
    for (int j = 0; j < kActive; ++j) {
      expert[j] = -1;
      score[j] = 0.0F;
      logit[j] = 0.0F;
    }
  }
  __device__ __forceinline__ void add(int e, float new_score, float new_logit) {
    // From the last place on: who is worse moves down.
#pragma unroll
    for (int j = kActive - 1; j >= 0; --j) {
      if (expert[j] < 0 || better(new_score, score[j])) {
        if (j + 1 < kActive) {
          expert[j + 1] = expert[j];
          score[j + 1] = score[j];
          logit[j + 1] = logit[j];
        }
        expert[j] = e;
        score[j] = new_score;
        logit[j] = new_logit;
      }
    }
  }
};

// `active` of the kActive are asked for.
template <int kActive>
__device__ __forceinline__ void route_token(
    const MoeRouteLaunch& p, int64_t token, const float* logits) {
  Best<kActive> best;
#pragma unroll 4
  for (int e = 0; e < p.experts; ++e) {
    const float logit = logits[e];
    best.add(e, logit + (p.bias == nullptr ? 0.0F : p.bias[e]), logit);
  }
  Softmax softmax{best.logit[0], 0.0F};
  if (p.softmax_first) {
    softmax = softmax_of_all(logits, p.experts);
  } else {
#pragma unroll
    for (int j = 1; j < kActive; ++j) {
      softmax.most =
          j < p.active ? fmaxf(softmax.most, best.logit[j]) : softmax.most;
    }
#pragma unroll
    for (int j = 0; j < kActive; ++j) {
      softmax.sum += j < p.active ? expf(best.logit[j] - softmax.most) : 0.0F;
    }
  }
#pragma unroll
  for (int j = 0; j < kActive; ++j) {
    if (j < p.active) {
      p.chosen[token * p.active + j] = best.expert[j];
      p.gates[token * p.active + j] = softmax.share(best.logit[j]);
    }
  }
}

__device__ __forceinline__ void route_token(
    const MoeRouteLaunch& p, int64_t token, const float* logits) {
  if (p.active == 1) {
    route_token<1>(p, token, logits);
  } else if (p.active == 2) {
    route_token<2>(p, token, logits);
  } else if (p.active <= 4) {
    route_token<4>(p, token, logits);
  } else {
    route_token<kMoeActive>(p, token, logits);
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
// the row's number, so that 8 rows of ldmatrix are bank-conflict-free. A warp
// has 16 tokens.
template <int kTiles, int kWarpCount>  // of eight experts
struct LogitsLayout {
  static constexpr int kWarps = kWarpCount;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kTokens = 16 * kWarps;
  static constexpr int kTermRows = kTerms * kTiles * 8;
  static constexpr uint32_t kRowBytes = sizeof(uint4) * kVectors;
  static constexpr uint32_t kStageBytes = (kTermRows + kTokens) * kRowBytes;
  // What is loaded ahead: with many tokens for a block as much as it can have,
  // else as much as lets a device have several blocks.
  static constexpr int kMostStages = kWarps > 4 ? 8 : 4;
  static constexpr int kRoom = kWarps > 4 ? 224 * 1024 : kSmallestShared;
  static constexpr int kFit = kRoom / static_cast<int>(kStageBytes);
  static constexpr int kStages = kFit < kMostStages ? kFit : kMostStages;
  static constexpr int kScores = kTiles * 8 + 1;  // of a token, padded
  static constexpr size_t kBytes = size_t{kStageBytes} * kStages;
  static_assert(kStages >= 2);
  static_assert(sizeof(float) * kTokens * kScores <= kBytes);

  __device__ static uint32_t at(int row, int vector) {
    return row * kRowBytes +
           (vector ^ (row % kVectors)) * static_cast<uint32_t>(sizeof(uint4));
  }
};

struct LogitsArguments {
  MoeLogitsLaunch p;
  const __nv_bfloat16* terms = nullptr;
  int first_expert = 0;
};

// A block has some tokens and up to kTiles * 8 experts, of which the first is
// a.first_expert; d passes by.
template <int kTiles, int kWarps>
__global__ void __launch_bounds__(32 * kWarps)
    logits_kernel(const __grid_constant__ LogitsArguments a) {
  const MoeLogitsLaunch& p = a.p;
  const int first_expert = a.first_expert;
  using Layout = LogitsLayout<kTiles, kWarps>;
  constexpr int kThreads = Layout::kThreads;
  constexpr int kTokens = Layout::kTokens;
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
      reinterpret_cast<const uint4*>(a.terms) + r * vectors + v;
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
  ptx::launch_dependents();
  ptx::grid_dependency_sync();
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
  // A token has as many lanes as divide a warp.
  constexpr int kLanes = kTiles <= 2 ? 8 * kTiles : 32;
  for (int token = thread / kLanes; token < count; token += kThreads / kLanes) {
    for (int e = thread % kLanes; e < experts; e += kLanes) {
      p.logits[(first + token) * all_experts + first_expert + e] =
          scores[token * Layout::kScores + e];
    }
  }
  if (p.route.chosen != nullptr && thread < count) {
    route_token(p.route, first + thread, scores + thread * Layout::kScores);
  }
}

struct LogitsDevice {
  int multiprocessors = 0;
  int shared_bytes = 0;  // of a block

  static LogitsDevice current(cudaError_t* status) {
    LogitsDevice found;
    int device = 0;
    *status = cudaGetDevice(&device);
    if (*status == cudaSuccess) {
      *status = cudaDeviceGetAttribute(
          &found.multiprocessors, cudaDevAttrMultiProcessorCount, device);
    }
    if (*status == cudaSuccess) {
      *status = cudaDeviceGetAttribute(
          &found.shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    }
    return found;
  }
};

template <int kTiles, int kWarps>
cudaError_t launch_logits(
    const MoeLogitsLaunch& p,
    const __nv_bfloat16* terms,
    int first_expert,
    cudaStream_t stream) {
  using Layout = LogitsLayout<kTiles, kWarps>;
  Launch launch(Layout::kThreads, static_cast<int>(Layout::kBytes), stream);
  if (pdl_supported()) {
    launch.enable_pdl();
  }
  return launch.run(
      logits_kernel<kTiles, kWarps>,
      ceil_div(p.route.tokens, Layout::kTokens),
      LogitsArguments{p, terms, first_expert});
}

// Blocks of many tokens read the weight less often, where there are enough of
// them for the device.
template <int kTiles>
cudaError_t launch_logits(
    const MoeLogitsLaunch& p,
    const __nv_bfloat16* terms,
    const LogitsDevice& device,
    cudaStream_t stream,
    int first_expert = 0) {
  using Wide = LogitsLayout<kTiles, 8>;
  const bool wide =
      static_cast<int>(Wide::kBytes) <= device.shared_bytes &&
      p.route.tokens * 4 >= int64_t{3} * Wide::kTokens * device.multiprocessors;
  if constexpr (kTiles * 8 > kFewExperts) {
    return launch_logits<kTiles, 8>(p, terms, first_expert, stream);
  } else {
    return wide ? launch_logits<kTiles, 8>(p, terms, first_expert, stream)
                : launch_logits<kTiles, 4>(p, terms, first_expert, stream);
  }
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
  return sizeof(__nv_bfloat16) * kTerms *
         std::max(padded(experts, kFewExperts), padded(experts, kMostExperts)) *
         static_cast<size_t>(d);
}

cudaError_t moe_logits(const MoeLogitsLaunch& p, cudaStream_t stream) {
  const int experts = p.route.experts;
  if (!moe_router_supports(experts, p.d) || p.route.tokens <= 0 ||
      (p.route.chosen != nullptr && !valid(p.route))) {
    return cudaErrorInvalidValue;
  }
  cudaError_t status = cudaSuccess;
  const LogitsDevice device = LogitsDevice::current(&status);
  if (status != cudaSuccess) {
    return status;
  }
  auto* terms = static_cast<__nv_bfloat16*>(p.workspace);
  constexpr int kMostTiles = kMostExperts / 8;
  const int most = static_cast<int>(LogitsLayout<kMostTiles, 8>::kBytes) <=
                           device.shared_bytes
                       ? kMostExperts
                       : kFewExperts;
  const int groups = groups_of(experts, most);
  const int64_t padded_size = static_cast<int64_t>(padded(experts, most)) * p.d;
  const int64_t group_size = padded_size / groups;
  split_weight<<<
      ceil_div(padded_size, kSplitThreads),
      kSplitThreads,
      0,
      stream>>>(
      p.weight,
      static_cast<int64_t>(experts) * p.d,
      padded_size,
      group_size,
      terms);
  if (groups > 1) {
    MoeLogitsLaunch scores = p;
    scores.route.chosen = nullptr;
    for (int group = 0; group < groups; ++group) {
      const auto* from = terms + group * kTerms * group_size;
      status = most == kMostExperts
                   ? launch_logits<kMostTiles>(
                         scores, from, device, stream, group * most)
                   : launch_logits<kFewExperts / 8>(
                         scores, from, device, stream, group * most);
      if (status != cudaSuccess) {
        return status;
      }
    }
    MoeRouteLaunch route = p.route;
    route.logits = p.logits;
    return route.chosen == nullptr ? cudaSuccess : moe_route(route, stream);
  }
  switch (tiles_of(experts)) {
    case 1:
      return launch_logits<1>(p, terms, device, stream);
    case 2:
      return launch_logits<2>(p, terms, device, stream);
    case 3:
      return launch_logits<3>(p, terms, device, stream);
    case 4:
      return launch_logits<4>(p, terms, device, stream);
    case 6:
      return launch_logits<6>(p, terms, device, stream);
    case 8:
      return launch_logits<8>(p, terms, device, stream);
    case 12:
      return launch_logits<12>(p, terms, device, stream);
    default:
      return launch_logits<kMostTiles>(p, terms, device, stream);
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
