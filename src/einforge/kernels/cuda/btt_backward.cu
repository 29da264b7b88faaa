#include "einforge/kernels/cuda/btt_backward.h"

#include <algorithm>
#include <utility>

#include "einforge/kernels/cuda/btt_backward.cuh"
#include "einforge/kernels/cuda/btt_weight_grad.h"

namespace einforge::kernels::cuda {

namespace {

using BackwardKernel = void (*)(const BttBackwardParams);

struct Variant {
  BackwardKernel kernel;
  BackwardKernel routed;
  int alpha;
  int epsilon;
  int gamma;  // of the layer
  int phi;
  int gammas;  // of a block
  int phis;
  int threads;
  int shared_bytes;
};

// A block of 16 gammas and 16 or 32 phis, so that it holds 128 sums a thread
// at most, fits in 227 KB, and reads no 16-byte pieces of the activations.
template <int kAlpha, int kEpsilon, int kGamma, int kPhi>
constexpr Variant variant() {
  constexpr int kPhiOctets =
      kAlpha == 32 && kEpsilon == 32 && kPhi % 32 == 0 ? 4 : 2;
  using Tile = BttBackwardTile<kAlpha, kEpsilon, 2, kPhiOctets, kGamma, kPhi>;
  return {
      btt_backward_partials<Tile, false>,
      btt_backward_partials<Tile, true>,
      kAlpha,
      kEpsilon,
      kGamma,
      kPhi,
      Tile::X::kOwn,
      Tile::Dy::kOwn,
      Tile::kThreads,
      Tile::kSharedBytes};
}

constexpr Variant kVariants[] = {
    variant<32, 32, 32, 32>(),
    variant<64, 64, 32, 32>(),
    variant<64, 32, 32, 64>(),
    variant<32, 64, 64, 32>(),
    variant<32, 32, 64, 64>(),
    variant<64, 64, 64, 64>(),
    variant<32, 64, 32, 64>(),
    variant<64, 32, 64, 32>()};

const Variant* variant_of(const BttSizes& s) {
  for (const Variant& v : kVariants) {
    if (v.alpha == s.alpha && v.epsilon == s.epsilon && v.gamma == s.gamma &&
        v.phi == s.phi && s.rho > 0) {
      return &v;
    }
  }
  return nullptr;
}

int blocks_of(const Variant& v, const BttSizes& s) {
  return s.gamma / v.gammas * (s.phi / v.phis) * s.rho;
}

// One wave; a split of fewer than two tiles would mostly wait.
int splits_of(
    const Variant& v,
    const BttSizes& s,
    int64_t tokens,
    const DeviceLimits& limits) {
  const int64_t tiles = (tokens + kBackwardTokens - 1) / kBackwardTokens;
  return static_cast<int>(std::clamp<int64_t>(
      tiles / 2, 1, std::max(1, limits.multiprocessors / blocks_of(v, s))));
}

}  // namespace

bool btt_backward_supports(const BttSizes& s, const DeviceLimits& limits) {
  const Variant* v = variant_of(s);
  return v != nullptr && limits.major == 9 &&
         v->shared_bytes <= limits.shared_bytes;
}

size_t btt_backward_bytes(
    const BttSizes& s, int64_t rows, int experts, const DeviceLimits& limits) {
  const size_t cores =
      static_cast<size_t>(s.gamma) * s.phi * s.rho * (s.alpha + s.epsilon);
  const int slots = splits_of(*variant_of(s), s, rows, limits) + experts - 1;
  return sizeof(float) * cores * static_cast<size_t>(slots);
}

cudaError_t btt_backward(
    const BttSizes& s,
    const BttCores& cores,
    const BttBackwardLaunch& launch,
    const DeviceLimits& limits,
    cudaStream_t stream) {
  if (!btt_backward_supports(s, limits) || launch.tokens <= 0) {
    return cudaErrorInvalidValue;
  }
  const Variant& v = *variant_of(s);
  const RoutedRows& rows = launch.rows;
  const bool routed = rows.offsets != nullptr;
  const int splits =
      splits_of(v, s, routed ? rows.pairs : launch.tokens, limits);
  const int slots = splits + rows.experts - 1;
  auto* a_partials = static_cast<float*>(launch.workspace);
  auto* b_partials = a_partials + static_cast<int64_t>(slots) * s.gamma *
                                      s.alpha * s.phi * s.rho;
  const BttBackwardParams params{
      .x =
          {.activations = launch.x,
           .core = cores.a,
           .row_stride = cores.a_strides.in,
           .own_stride = cores.a_strides.gamma,
           .other_stride = cores.a_strides.phi,
           .rho_stride = cores.a_strides.rho,
           .expert_stride = cores.a_expert,
           .partials = a_partials,
           .own = s.gamma,
           .other = s.phi},
      .dy =
          {.activations = launch.dy,
           .core = cores.b,
           .row_stride = cores.b_strides.in,
           .own_stride = cores.b_strides.phi,
           .other_stride = cores.b_strides.gamma,
           .rho_stride = cores.b_strides.rho,
           .expert_stride = cores.b_expert,
           .partials = b_partials,
           .own = s.phi,
           .other = s.gamma},
      .tokens = launch.tokens,
      .rho = s.rho,
      .gamma_blocks = s.gamma / v.gammas,
      .phi_blocks = s.phi / v.phis,
      .splits = splits,
      .rows = rows,
      .gates = launch.gates};
  const BackwardKernel kernel = routed ? v.routed : v.kernel;
  cudaError_t status = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, v.shared_bytes);
  if (status != cudaSuccess) {
    return status;
  }
  kernel<<<
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
      {.sums = a_partials, .splits = splits, .rows = rows},
      launch.da,
      launch.da_strides,
      launch.da_expert,
      stream);
  if (status != cudaSuccess) {
    return status;
  }
  BttCores::Strides strides = launch.db_strides;
  std::swap(strides.gamma, strides.phi);
  return btt_sum_partials(
      BttWeightGradSizes(s.transposed()),
      {.sums = b_partials, .splits = splits, .rows = rows},
      launch.db,
      strides,
      launch.db_expert,
      stream);
}

}  // namespace einforge::kernels::cuda
