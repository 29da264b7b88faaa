#include "einforge/kernels/cuda/moe_router.h"

#include <algorithm>

#include "einforge/kernels/cuda/ptx.cuh"

namespace einforge::kernels::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kTerms = 3;
constexpr int kBackwardExperts = 16;
constexpr int kBackwardThreads = 128;
constexpr int kColumns = 8;  // of a thread
constexpr int kMostActive = 8;
constexpr int kRouteThreads = 128;

unsigned blocks_of(int64_t items, int each) {
  return static_cast<unsigned>((items + each - 1) / each);
}

int padded(int experts) {
  return (experts + 7) / 8 * 8;
}

// weight = hi + mid + lo, each rounded to bfloat16: 24 bits.
__global__ void __launch_bounds__(kThreads) split_weight(
    const float* __restrict__ weight,
    int64_t size,
    int64_t padded_size,
    __nv_bfloat16* __restrict__ terms) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= padded_size) {
    return;
  }
  float rest = i < size ? weight[i] : 0.0F;
#pragma unroll
  for (int term = 0; term < kTerms; ++term) {
    const __nv_bfloat16 part = __float2bfloat16_rn(rest);
    terms[term * padded_size + i] = part;
    rest -= __bfloat162float(part);
  }
}

// A warp has 16 tokens and all experts. A lane reads eight neighbours along d
// of a row of x, and of a row of each term: two steps of the mma, whose depth
// they fill in the same order.
template <int kTiles>  // of eight experts
__global__ void __launch_bounds__(kThreads) logits_kernel(
    const __nv_bfloat16* __restrict__ x,
    const __nv_bfloat16* __restrict__ terms,
    int64_t tokens,
    int experts,
    int d,
    float* __restrict__ logits) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * kWarps +
                         static_cast<int>(threadIdx.x) / 32) *
                        16;
  if (first >= tokens) {
    return;
  }
  const int row = lane / 4;
  const int q = lane % 4;
  const uint4* from[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t token = min(first + row + 8 * half, tokens - 1);
    from[half] = reinterpret_cast<const uint4*>(x + token * d) + q;
  }
  const int64_t term_vectors = static_cast<int64_t>(kTiles) * 8 * d / 8;
  const uint4* weights =
      reinterpret_cast<const uint4*>(terms) + row * (d / 8) + q;
  float sums[kTiles][4] = {};
#pragma unroll 4
  for (int step = 0; step < d / 32; ++step) {
    const uint4 u = __ldg(from[0] + step * 4);
    const uint4 v = __ldg(from[1] + step * 4);
    const uint4 even{u.x, v.x, u.y, v.y};
    const uint4 odd{u.z, v.z, u.w, v.w};
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int term = 0; term < kTerms; ++term) {
        const uint4 w = __ldg(
            weights + term * term_vectors + tile * (8 * (d / 8)) + step * 4);
        ptx::mma(sums[tile], even, w.x, w.y);
        ptx::mma(sums[tile], odd, w.z, w.w);
      }
    }
  }
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int64_t token = first + row + i / 2 * 8;
      const int expert = tile * 8 + 2 * q + i % 2;
      if (token < tokens && expert < experts) {
        logits[token * experts + expert] = sums[tile][i];
      }
    }
  }
}

// A thread has eight columns of the weight in registers; tokens pass by.
__global__ void __launch_bounds__(kBackwardThreads) logits_dx(
    const float* __restrict__ dlogits,
    const float* __restrict__ weight,
    int64_t tokens,
    int experts,
    int d,
    __nv_bfloat16* __restrict__ dx) {
  const int column =
      static_cast<int>(blockIdx.y * kBackwardThreads + threadIdx.x) * kColumns;
  if (column >= d) {
    return;
  }
  float w[kBackwardExperts][kColumns];
#pragma unroll
  for (int e = 0; e < kBackwardExperts; ++e) {
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      w[e][i] =
          e < experts ? weight[static_cast<int64_t>(e) * d + column + i] : 0.0F;
    }
  }
#pragma unroll 1
  for (int64_t token = blockIdx.x; token < tokens; token += gridDim.x) {
    float sum[kColumns] = {};
#pragma unroll
    for (int e = 0; e < kBackwardExperts; ++e) {
      const float g = e < experts ? __ldg(dlogits + token * experts + e) : 0.0F;
#pragma unroll
      for (int i = 0; i < kColumns; ++i) {
        sum[i] += g * w[e][i];
      }
    }
    *reinterpret_cast<uint4*>(dx + token * d + column) = {
        ptx::round_pair(sum[0], sum[1]),
        ptx::round_pair(sum[2], sum[3]),
        ptx::round_pair(sum[4], sum[5]),
        ptx::round_pair(sum[6], sum[7])};
  }
}

// A thread has eight columns of every expert's sum over a share of the tokens.
__global__ void __launch_bounds__(kBackwardThreads) logits_dweight(
    const float* __restrict__ dlogits,
    const __nv_bfloat16* __restrict__ x,
    int64_t tokens,
    int experts,
    int d,
    float* __restrict__ partials) {  // (blocks, experts, d)
  const int column =
      static_cast<int>(blockIdx.y * kBackwardThreads + threadIdx.x) * kColumns;
  if (column >= d) {
    return;
  }
  const int64_t begin = tokens * blockIdx.x / gridDim.x;
  const int64_t end = tokens * (blockIdx.x + 1) / gridDim.x;
  float sum[kBackwardExperts][kColumns] = {};
#pragma unroll 2
  for (int64_t token = begin; token < end; ++token) {
    const uint4 v =
        __ldg(reinterpret_cast<const uint4*>(x + token * d + column));
    float values[kColumns] = {};
    ptx::add_pair(values[0], values[1], v.x);
    ptx::add_pair(values[2], values[3], v.y);
    ptx::add_pair(values[4], values[5], v.z);
    ptx::add_pair(values[6], values[7], v.w);
#pragma unroll
    for (int e = 0; e < kBackwardExperts; ++e) {
      const float g = e < experts ? __ldg(dlogits + token * experts + e) : 0.0F;
#pragma unroll
      for (int i = 0; i < kColumns; ++i) {
        sum[e][i] += g * values[i];
      }
    }
  }
#pragma unroll
  for (int e = 0; e < kBackwardExperts; ++e) {
    if (e < experts) {
      float4* to = reinterpret_cast<float4*>(
          partials + (static_cast<int64_t>(blockIdx.x) * experts + e) * d +
          column);
      to[0] = {sum[e][0], sum[e][1], sum[e][2], sum[e][3]};
      to[1] = {sum[e][4], sum[e][5], sum[e][6], sum[e][7]};
    }
  }
}

__global__ void __launch_bounds__(kThreads) add_partials(
    const float* __restrict__ partials,
    int count,
    int64_t size,
    float* __restrict__ out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= size) {
    return;
  }
  float sum = 0.0F;
#pragma unroll 8
  for (int n = 0; n < count; ++n) {
    sum += partials[n * size + i];
  }
  out[i] = sum;
}

int token_shares(int64_t tokens) {
  return static_cast<int>(std::clamp<int64_t>(tokens / 64, 1, 256));
}

// Above everything that is not NaN.
__device__ __forceinline__ bool better(float a, float b) {
  return a > b || (isnan(a) && !isnan(b));
}

struct Softmax {
  float most;
  float sum;
};

__device__ __forceinline__ Softmax
softmax_of_all(const float* logits, int experts) {
  float most = logits[0];
  for (int e = 1; e < experts; ++e) {
    most = fmaxf(most, logits[e]);
  }
  float sum = 0.0F;
  for (int e = 0; e < experts; ++e) {
    sum += expf(logits[e] - most);
  }
  return {most, sum};
}

// A thread has a token.
__global__ void __launch_bounds__(kRouteThreads)
    route_kernel(const __grid_constant__ MoeRouteLaunch p) {
  const int64_t token =
      static_cast<int64_t>(blockIdx.x) * kRouteThreads + threadIdx.x;
  if (token >= p.tokens) {
    return;
  }
  const float* logits = p.logits + token * p.experts;
  int chosen[kMostActive];
  float values[kMostActive];
#pragma unroll
  for (int j = 0; j < kMostActive; ++j) {
    chosen[j] = -1;
    values[j] = 0.0F;
    if (j < p.active) {
      float best = 0.0F;
      for (int e = 0; e < p.experts; ++e) {
        bool taken = false;
#pragma unroll
        for (int i = 0; i < kMostActive; ++i) {
          taken = taken || (i < j && chosen[i] == e);
        }
        const float score = logits[e] + (p.bias == nullptr ? 0.0F : p.bias[e]);
        if (!taken && (chosen[j] < 0 || better(score, best))) {
          chosen[j] = e;
          best = score;
        }
      }
      values[j] = logits[chosen[j]];
    }
  }
  Softmax softmax{values[0], 0.0F};
  if (p.softmax_first) {
    softmax = softmax_of_all(logits, p.experts);
  } else {
#pragma unroll
    for (int j = 1; j < kMostActive; ++j) {
      softmax.most =
          j < p.active ? fmaxf(softmax.most, values[j]) : softmax.most;
    }
#pragma unroll
    for (int j = 0; j < kMostActive; ++j) {
      softmax.sum += j < p.active ? expf(values[j] - softmax.most) : 0.0F;
    }
  }
#pragma unroll
  for (int j = 0; j < kMostActive; ++j) {
    if (j < p.active) {
      p.chosen[token * p.active + j] = chosen[j];
      p.gates[token * p.active + j] =
          expf(values[j] - softmax.most) / softmax.sum;
    }
  }
}

// d logit_e = share_e (d gate_e - sum_j gate_j d gate_j), share the softmax's.
__global__ void __launch_bounds__(kRouteThreads) route_backward_kernel(
    const __grid_constant__ MoeRouteLaunch p,
    const float* __restrict__ dgates,
    float* __restrict__ dlogits) {
  const int64_t token =
      static_cast<int64_t>(blockIdx.x) * kRouteThreads + threadIdx.x;
  if (token >= p.tokens) {
    return;
  }
  const float* logits = p.logits + token * p.experts;
  float mean = 0.0F;
  for (int j = 0; j < p.active; ++j) {
    const int64_t i = token * p.active + j;
    mean += p.gates[i] * dgates[i];
  }
  const Softmax softmax =
      p.softmax_first ? softmax_of_all(logits, p.experts) : Softmax{};
  for (int e = 0; e < p.experts; ++e) {
    float value = p.softmax_first
                      ? -mean * expf(logits[e] - softmax.most) / softmax.sum
                      : 0.0F;
    for (int j = 0; j < p.active; ++j) {
      const int64_t i = token * p.active + j;
      if (p.chosen[i] == e) {
        value = p.gates[i] * (dgates[i] - mean);
      }
    }
    dlogits[token * p.experts + e] = value;
  }
}

}  // namespace

bool moe_router_supports(int experts, int d, bool backward) {
  return d % 32 == 0 && experts >= 1 &&
         experts <= (backward ? kBackwardExperts : 64);
}

size_t moe_logits_bytes(int experts, int d) {
  return sizeof(__nv_bfloat16) * kTerms * padded(experts) *
         static_cast<size_t>(d);
}

cudaError_t moe_logits(
    const __nv_bfloat16* x,
    const float* weight,
    int64_t tokens,
    int experts,
    int d,
    void* workspace,
    float* logits,
    cudaStream_t stream) {
  if (!moe_router_supports(experts, d, false) || tokens <= 0) {
    return cudaErrorInvalidValue;
  }
  auto* terms = static_cast<__nv_bfloat16*>(workspace);
  const int tiles = padded(experts) / 8;
  const int64_t padded_size = static_cast<int64_t>(tiles) * 8 * d;
  split_weight<<<blocks_of(padded_size, kThreads), kThreads, 0, stream>>>(
      weight, static_cast<int64_t>(experts) * d, padded_size, terms);
  const unsigned blocks = blocks_of(tokens, 16 * kWarps);
  const auto launch = [&](auto kernel) {
    kernel<<<blocks, kThreads, 0, stream>>>(
        x, terms, tokens, experts, d, logits);
  };
  switch (tiles) {
    case 1:
      launch(logits_kernel<1>);
      break;
    case 2:
      launch(logits_kernel<2>);
      break;
    case 3:
      launch(logits_kernel<3>);
      break;
    case 4:
      launch(logits_kernel<4>);
      break;
    case 5:
      launch(logits_kernel<5>);
      break;
    case 6:
      launch(logits_kernel<6>);
      break;
    case 7:
      launch(logits_kernel<7>);
      break;
    default:
      launch(logits_kernel<8>);
      break;
  }
  return cudaGetLastError();
}

size_t moe_logits_backward_bytes(int64_t tokens, int experts, int d) {
  return sizeof(float) * token_shares(tokens) * static_cast<size_t>(experts) *
         d;
}

cudaError_t moe_logits_backward(
    const float* dlogits,
    const __nv_bfloat16* x,
    const float* weight,
    int64_t tokens,
    int experts,
    int d,
    void* workspace,
    __nv_bfloat16* dx,
    float* dweight,
    cudaStream_t stream) {
  if (!moe_router_supports(experts, d, true) || tokens <= 0) {
    return cudaErrorInvalidValue;
  }
  const unsigned columns = blocks_of(d / kColumns, kBackwardThreads);
  if (dx != nullptr) {
    const auto rows = static_cast<unsigned>(std::min<int64_t>(tokens, 1056));
    logits_dx<<<dim3(rows, columns), kBackwardThreads, 0, stream>>>(
        dlogits, weight, tokens, experts, d, dx);
  }
  if (dweight != nullptr) {
    const int shares = token_shares(tokens);
    auto* partials = static_cast<float*>(workspace);
    const dim3 blocks(static_cast<unsigned>(shares), columns);
    logits_dweight<<<blocks, kBackwardThreads, 0, stream>>>(
        dlogits, x, tokens, experts, d, partials);
    const int64_t size = static_cast<int64_t>(experts) * d;
    add_partials<<<blocks_of(size, kThreads), kThreads, 0, stream>>>(
        partials, shares, size, dweight);
  }
  return cudaGetLastError();
}

cudaError_t moe_route(const MoeRouteLaunch& p, cudaStream_t stream) {
  if (p.tokens <= 0 || p.active < 1 || p.active > kMostActive ||
      p.active > p.experts) {
    return cudaErrorInvalidValue;
  }
  route_kernel<<<
      blocks_of(p.tokens, kRouteThreads),
      kRouteThreads,
      0,
      stream>>>(p);
  return cudaGetLastError();
}

cudaError_t moe_route_backward(
    const MoeRouteLaunch& p,
    const float* dgates,
    float* dlogits,
    cudaStream_t stream) {
  if (p.tokens <= 0 || p.active < 1 || p.active > kMostActive) {
    return cudaErrorInvalidValue;
  }
  route_backward_kernel<<<
      blocks_of(p.tokens, kRouteThreads),
      kRouteThreads,
      0,
      stream>>>(p, dgates, dlogits);
  return cudaGetLastError();
}

}  // namespace einforge::kernels::cuda
