#include <algorithm>
#include <type_traits>

#include "einforge/kernels/cuda/ceil_div.h"
#include "einforge/kernels/cuda/moe_router_loss.h"

namespace einforge::kernels::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kSumThreads = 1024;
constexpr int kSumWarps = kSumThreads / 32;
constexpr int kMostBlocks = 512;
constexpr int kMostExperts = 256;
constexpr unsigned kAll = 0xFFFFFFFFU;

template <int kLanes, typename Value>
__device__ __forceinline__ Value sum_of_lanes(Value value) {
#pragma unroll
  for (int hop = 1; hop < kLanes; hop *= 2) {
    value += __shfl_xor_sync(kAll, value, hop);
  }
  return value;
}

// A token belongs to kLanes lanes of a warp; each has kEach of its experts,
// kLanes apart.
template <int kLanes, int kEach>
struct Shares {
  float of[kEach];  // softmax; 0 past the last expert
  float lse;

  __device__ __forceinline__ static int lane() {
    return static_cast<int>(threadIdx.x) % kLanes;
  }
  __device__ __forceinline__ static int expert(int i) {
    return lane() + i * kLanes;
  }

  __device__ __forceinline__
  Shares(const MoeRouterLossLaunch& p, int64_t token) {
    float most = -INFINITY;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      of[i] = -INFINITY;
      if (expert(i) < p.experts) {
        of[i] = token < p.tokens ? p.logits[token * p.experts + expert(i)] : 0;
      }
      most = fmaxf(most, of[i]);
    }
#pragma unroll
    for (int hop = 1; hop < kLanes; hop *= 2) {
      most = fmaxf(most, __shfl_xor_sync(kAll, most, hop));
    }
    float sum = 0.0F;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      of[i] = expf(of[i] - most);
      sum += of[i];
    }
    sum = sum_of_lanes<kLanes>(sum);
    lse = most + logf(sum);
    const float scale = 1.0F / sum;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      of[i] *= scale;
    }
  }
};

// Calls work(token) for the tokens of this thread; whole blocks go together,
// the last with tokens that do not exist.
template <int kLanes, typename Work>
__device__ __forceinline__ void for_tokens(int64_t tokens, const Work& work) {
  constexpr int kGroups = kThreads / kLanes;
  const int group = static_cast<int>(threadIdx.x) / kLanes;
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * kGroups;
       first < tokens;
       first += static_cast<int64_t>(gridDim.x) * kGroups) {
    work(first + group);
  }
}

// What a block has found lies in columns: of p_i in row i, of lse^2 in row E,
// of the counts in rows E + 1 to 2 E, as integers.
struct Partials {
  float* sums;
  int experts;

  __device__ __forceinline__ int64_t at(int row, unsigned block) const {
    return static_cast<int64_t>(row) * kMostBlocks + block;
  }
  __device__ __forceinline__ float& sum(int row, unsigned block) const {
    return sums[at(row, block)];
  }
  __device__ __forceinline__ int32_t& count(int e, unsigned block) const {
    return reinterpret_cast<int32_t*>(sums)[at(experts + 1 + e, block)];
  }
};

template <int kLanes, int kEach>
__global__ void __launch_bounds__(kThreads) router_loss_partials(
    const __grid_constant__ MoeRouterLossLaunch p,
    const int32_t* __restrict__ chosen,
    int active,
    Partials partials) {
  using Token = Shares<kLanes, kEach>;
  constexpr int kGroups = kThreads / kLanes;
  constexpr int kWidth = kLanes * kEach;
  __shared__ float sums[kGroups * kWidth];
  __shared__ int32_t counts[kGroups * kWidth];
  __shared__ float squares[kGroups];
  float sum[kEach] = {};
  int32_t count[kEach] = {};
  float square = 0.0F;
  for_tokens<kLanes>(p.tokens, [&](int64_t token) {
    const Token shares(p, token);
    if (token < p.tokens) {
      square += shares.lse * shares.lse;
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        sum[i] += shares.of[i];
      }
      for (int j = 0; j < active; ++j) {
        const int32_t expert = chosen[token * active + j];
#pragma unroll
        for (int i = 0; i < kEach; ++i) {
          count[i] += expert == Token::expert(i) ? 1 : 0;
        }
      }
    }
  });
  const int thread = static_cast<int>(threadIdx.x);
  const int group = thread / kLanes;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    sums[group * kWidth + Token::expert(i)] = sum[i];
    counts[group * kWidth + Token::expert(i)] = count[i];
  }
  if (Token::lane() == 0) {
    squares[group] = square;
  }
  __syncthreads();
  for (int e = thread; e <= p.experts; e += kThreads) {
    float total = 0.0F;
    if (e == p.experts) {
      for (int g = 0; g < kGroups; ++g) {
        total += squares[g];
      }
    } else {
      int32_t taken = 0;
      for (int g = 0; g < kGroups; ++g) {
        total += sums[g * kWidth + e];
        taken += counts[g * kWidth + e];
      }
      partials.count(e, blockIdx.x) = taken;
    }
    partials.sum(e, blockIdx.x) = total;
  }
}

// One block; a warp has a row of the partial sums.
__global__ void __launch_bounds__(kSumThreads) router_loss_sum(
    const __grid_constant__ MoeRouterLossLaunch p,
    int active,
    Partials partials,
    unsigned blocks,
    float* __restrict__ loss,
    int64_t* __restrict__ counts) {
  __shared__ float terms[kMostExperts + 1];
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const auto tokens = static_cast<float>(p.tokens);
  for (int e = warp; e <= p.experts; e += kSumWarps) {
    float sum = 0.0F;
    int32_t count = 0;
#pragma unroll 4
    for (unsigned block = lane; block < blocks; block += 32) {
      sum += partials.sum(e, block);
      count += e < p.experts ? partials.count(e, block) : 0;
    }
    sum = sum_of_lanes<32>(sum) / tokens;
    count = sum_of_lanes<32>(count);
    if (lane == 0) {
      if (e < p.experts) {
        counts[e] = count;
        terms[e] = sum * (static_cast<float>(count) /
                          (tokens * static_cast<float>(active)));
      } else {
        terms[e] = sum;
      }
    }
  }
  __syncthreads();
  if (warp == 0) {
    float sum = 0.0F;
    for (int e = lane; e < p.experts; e += 32) {
      sum += terms[e];
    }
    sum = sum_of_lanes<32>(sum) * static_cast<float>(p.experts);
    if (lane == 0) {
      *loss = p.balance_weight * sum + p.z_weight * terms[p.experts];
    }
  }
}

// With p the shares of a token and T tokens:
//   dlogits_i = grad p_i / T (balance_weight E (f_i - sum_j p_j f_j)
//                             + 2 z_weight lse)
template <int kLanes, int kEach>
__global__ void __launch_bounds__(kThreads) router_loss_backward(
    const __grid_constant__ MoeRouterLossLaunch p,
    const int64_t* __restrict__ counts,
    const float* __restrict__ grad,
    float* __restrict__ dlogits) {
  using Token = Shares<kLanes, kEach>;
  float load[kEach];
  float pairs = 0.0F;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int e = Token::expert(i);
    load[i] = e < p.experts ? static_cast<float>(counts[e]) : 0.0F;
    pairs += load[i];
  }
  pairs = sum_of_lanes<kLanes>(pairs);
  const float scale = *grad / static_cast<float>(p.tokens);
  const float balance =
      scale * p.balance_weight * static_cast<float>(p.experts) / pairs;
  const float z = scale * p.z_weight * 2.0F;
  for_tokens<kLanes>(p.tokens, [&](int64_t token) {
    const Token shares(p, token);
    float mean = 0.0F;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      mean += shares.of[i] * load[i];
    }
    mean = sum_of_lanes<kLanes>(mean);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int e = Token::expert(i);
      if (token < p.tokens && e < p.experts) {
        dlogits[token * p.experts + e] =
            shares.of[i] * (balance * (load[i] - mean) + z * shares.lse);
      }
    }
  });
}

// Calls run with the lanes of a token and the experts of a lane as constants.
template <typename Run>
void with_lanes(int experts, const Run& run) {
  const auto call = [&]<int kLanes, int kEach>() {
    run(std::integral_constant<int, kLanes>{},
        std::integral_constant<int, kEach>{});
  };
  if (experts <= 2) {
    call.template operator()<2, 1>();
  } else if (experts <= 4) {
    call.template operator()<4, 1>();
  } else if (experts <= 8) {
    call.template operator()<8, 1>();
  } else if (experts <= 16) {
    call.template operator()<16, 1>();
  } else if (experts <= 32) {
    call.template operator()<32, 1>();
  } else if (experts <= 64) {
    call.template operator()<32, 2>();
  } else {
    call.template operator()<32, 8>();
  }
}

unsigned blocks_for(int64_t tokens, int lanes) {
  return std::min<unsigned>(kMostBlocks, ceil_div(tokens, kThreads / lanes));
}

bool valid(const MoeRouterLossLaunch& p) {
  return p.tokens > 0 && moe_router_loss_supports(p.experts);
}

}  // namespace

bool moe_router_loss_supports(int64_t experts) {
  return experts >= 1 && experts <= kMostExperts;
}

size_t moe_router_loss_bytes(int experts) {
  return sizeof(float) * kMostBlocks * (2 * static_cast<size_t>(experts) + 1);
}

cudaError_t moe_router_loss(
    const MoeRouterLossLaunch& p,
    const int32_t* chosen,
    int active,
    void* workspace,
    float* loss,
    int64_t* counts,
    cudaStream_t stream) {
  if (!valid(p) || active < 1) {
    return cudaErrorInvalidValue;
  }
  const Partials partials{static_cast<float*>(workspace), p.experts};
  with_lanes(p.experts, [&](auto lanes, auto each) {
    const unsigned blocks = blocks_for(p.tokens, lanes);
    router_loss_partials<lanes, each>
        <<<blocks, kThreads, 0, stream>>>(p, chosen, active, partials);
    router_loss_sum<<<1, kSumThreads, 0, stream>>>(
        p, active, partials, blocks, loss, counts);
  });
  return cudaGetLastError();
}

cudaError_t moe_router_loss_backward(
    const MoeRouterLossLaunch& p,
    const int64_t* counts,
    const float* grad,
    float* dlogits,
    cudaStream_t stream) {
  if (!valid(p)) {
    return cudaErrorInvalidValue;
  }
  with_lanes(p.experts, [&](auto lanes, auto each) {
    router_loss_backward<lanes, each>
        <<<blocks_for(p.tokens, lanes), kThreads, 0, stream>>>(
            p, counts, grad, dlogits);
  });
  return cudaGetLastError();
}

}  // namespace einforge::kernels::cuda
