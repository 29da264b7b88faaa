#include "einforge/kernels/cuda/btt_backward.h"

#include <algorithm>
#include <array>
#include <utility>

#include "einforge/kernels/cuda/btt_backward.cuh"
#include "einforge/kernels/cuda/btt_weight_grad.h"

namespace einforge::kernels::cuda {

namespace {

using BackwardKernel = void (*)(const BttBackwardParams);

struct Variant {
  BackwardKernel kernel;
  int alpha;
  int epsilon;
  int gammas;
  int phis;
  int tokens;
  int threads;
  int shared_bytes;
};

template <int kAlpha, int kEpsilon, int kOctets, int kPhiOctets, int kXBuffers>
Variant variant() {
  using Tile =
      BttBackwardTile<kAlpha, kEpsilon, kOctets, kPhiOctets, kXBuffers>;
  return {
      btt_backward_partials<Tile>,
      kAlpha,
      kEpsilon,
      kOctets * kVector,
      Tile::kPhi,
      Tile::kTokens,
      Tile::kThreads,
      Tile::kSharedBytes};
}

// 128 sums a thread at most, and what fits in 227 KB.
const std::array<Variant, 5>& variants() {
  static const std::array<Variant, 5> all{
      variant<32, 32, 2, 4, 2>(),
      variant<64, 32, 1, 4, 2>(),
      variant<32, 64, 1, 4, 2>(),
      variant<64, 64, 1, 4, 1>(),
      variant<64, 64, 2, 2, 2>()};
  return all;
}

int blocks_of(const Variant& v, const BttSizes& s) {
  return s.gamma / v.gammas * (s.phi / v.phis) * s.rho;
}

bool gives_dx(const Variant& v, const BttSizes& s) {
  return s.phi == v.phis && s.rho == 1;
}

// From L2, in sectors of 32 bytes.
int64_t traffic_of(const Variant& v, const BttSizes& s) {
  const int64_t x_bytes =
      static_cast<int64_t>(s.alpha) * std::max(32, 2 * v.gammas);
  const int64_t dy_bytes = static_cast<int64_t>(s.epsilon) * 2 * v.phis;
  return blocks_of(v, s) * (x_bytes + dy_bytes);
}

// One that gives dx too, or else the one with the least traffic.
const Variant* variant_of(const BttSizes& s) {
  const Variant* best = nullptr;
  for (const Variant& v : variants()) {
    if (v.alpha != s.alpha || v.epsilon != s.epsilon || s.gamma <= 0 ||
        s.gamma % v.gammas != 0 || s.phi <= 0 || s.phi % v.phis != 0 ||
        s.rho <= 0) {
      continue;
    }
    if (gives_dx(v, s)) {
      return &v;
    }
    if (best == nullptr || traffic_of(v, s) < traffic_of(*best, s)) {
      best = &v;
    }
  }
  return best;
}

// One wave; a split of fewer than two tiles would mostly wait.
int splits_of(
    const Variant& v,
    const BttSizes& s,
    int64_t tokens,
    const DeviceLimits& limits) {
  const int64_t tiles = (tokens + v.tokens - 1) / v.tokens;
  return static_cast<int>(std::clamp<int64_t>(
      tiles / 2, 1, std::max(1, limits.multiprocessors / blocks_of(v, s))));
}

}  // namespace

bool btt_backward_supports(const BttSizes& s, const DeviceLimits& limits) {
  const Variant* v = variant_of(s);
  return v != nullptr && v->shared_bytes <= limits.shared_bytes;
}

bool btt_backward_gives_dx(const BttSizes& s) {
  const Variant* v = variant_of(s);
  return v != nullptr && gives_dx(*v, s);
}

int64_t btt_backward_traffic(const BttSizes& s) {
  const Variant* v = variant_of(s);
  return v == nullptr ? INT64_MAX : traffic_of(*v, s);
}

size_t btt_backward_bytes(
    const BttSizes& s, int64_t tokens, const DeviceLimits& limits) {
  const size_t cores =
      static_cast<size_t>(s.gamma) * s.phi * s.rho * (s.alpha + s.epsilon);
  return sizeof(float) * cores * splits_of(*variant_of(s), s, tokens, limits);
}

cudaError_t btt_backward(
    const BttSizes& s,
    const BttCores& cores,
    const BttBackwardLaunch& launch,
    const DeviceLimits& limits,
    cudaStream_t stream) {
  if (!btt_backward_supports(s, limits) || launch.tokens <= 0 ||
      (launch.dx != nullptr && !btt_backward_gives_dx(s))) {
    return cudaErrorInvalidValue;
  }
  const Variant& v = *variant_of(s);
  const int splits = splits_of(v, s, launch.tokens, limits);
  auto* a_partials = static_cast<float*>(launch.workspace);
  auto* b_partials = a_partials + static_cast<int64_t>(splits) * s.gamma *
                                      s.alpha * s.phi * s.rho;
  const BttBackwardParams params{
      .x = launch.x,
      .dy = launch.dy,
      .dx = launch.dx,
      .a = cores.a,
      .b = cores.b,
      .a_strides = cores.a_strides,
      .b_strides = cores.b_strides,
      .a_partials = a_partials,
      .b_partials = b_partials,
      .tokens = launch.tokens,
      .sizes = s,
      .gamma_blocks = s.gamma / v.gammas,
      .phi_blocks = s.phi / v.phis,
      .splits = splits};
  cudaError_t status = cudaFuncSetAttribute(
      v.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, v.shared_bytes);
  if (status != cudaSuccess) {
    return status;
  }
  v.kernel<<<
      static_cast<unsigned>(blocks_of(v, s) * splits),
      static_cast<unsigned>(v.threads),
      static_cast<size_t>(v.shared_bytes),
      stream>>>(params);
  status = cudaGetLastError();
  if (status != cudaSuccess) {
    return status;
  }
  status = btt_sum_partials(
      BttWeightGradSizes(s),
      a_partials,
      splits,
      launch.da,
      launch.da_strides,
      stream);
  if (status != cudaSuccess) {
    return status;
  }
  BttCores::Strides strides = launch.db_strides;
  std::swap(strides.gamma, strides.phi);
  return btt_sum_partials(
      BttWeightGradSizes(s.transposed()),
      b_partials,
      splits,
      launch.db,
      strides,
      stream);
}

}  // namespace einforge::kernels::cuda
