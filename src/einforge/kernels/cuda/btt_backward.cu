#include "einforge/kernels/cuda/btt_backward.h"

#include <algorithm>

#include "einforge/kernels/cuda/btt_backward.cuh"
#include "einforge/kernels/cuda/btt_backward_resident.cuh"
#include "einforge/kernels/cuda/btt_weight_grad.h"
#include "einforge/kernels/cuda/ceil_div.h"
#include "einforge/kernels/cuda/column_sums.h"
#include "einforge/kernels/cuda/launch.h"
#include "einforge/kernels/cuda/tensor_map.h"

namespace einforge::kernels::cuda {

namespace {

using BackwardKernel = void (*)(const BttBackwardParams);

struct Variant {
  BackwardKernel kernel;
  BackwardKernel routed;
  int alpha;
  int epsilon;
  int gamma_ranks;
  int phi_ranks;
  bool sums_bias;
  int threads;
  int shared_bytes;
  int64_t from_rows;  // of a single layer; never of a mixture, if above 0

  int cluster() const { return gamma_ranks * phi_ranks; }
  int gamma_groups(const BttSizes& s) const {
    return static_cast<int>(ceil_div(s.gamma, gamma_ranks * kBackwardOwn));
  }
  int phi_groups(const BttSizes& s) const {
    return static_cast<int>(ceil_div(s.phi, phi_ranks * kBackwardOwn));
  }
  // That share the tokens of one split.
  int clusters(const BttSizes& s) const {
    return gamma_groups(s) * phi_groups(s) * s.rho;
  }
  // What the gradients of a layer would take of it, zeros included.
  int64_t work(const BttSizes& s) const {
    return static_cast<int64_t>(clusters(s)) * cluster() * (alpha + epsilon);
  }
};

template <int kAlpha, int kEpsilon, int kGammaRanks = 2, int kPhiRanks = 2>
constexpr Variant resident() {
  using Tile = BttResidentGradTile<kAlpha, kEpsilon, kGammaRanks, kPhiRanks>;
  return {
      btt_backward_resident_sm90<Tile, false>,
      btt_backward_resident_sm90<Tile, true>,
      kAlpha,
      kEpsilon,
      kGammaRanks,
      kPhiRanks,
      Tile::kSumsBias,
      Tile::kThreads,
      Tile::kSharedBytes,
      /*from_rows=*/0};
}

template <int kAlpha, int kEpsilon>
constexpr Variant shared(int64_t from_rows) {
  using Tile = BttBackwardTile<kAlpha, kEpsilon, 2, 2>;
  return {
      btt_backward_partials_sm90<Tile, false>,
      btt_backward_partials_sm90<Tile, true>,
      kAlpha,
      kEpsilon,
      2,
      2,
      /*sums_bias=*/false,
      Tile::kThreads,
      Tile::kSharedBytes,
      from_rows};
}

// Of as much work the first. Blocks without a cluster drift apart, and in a
// long single layer then read memory again: 0.59 ms at 65,536 tokens from 1,024
// to 4,096, where clusters take 0.50, and 0.23 and 0.26 at 32,768.
constexpr int64_t kLong = 49152;
constexpr Variant kVariants[] = {
    resident<32, 32>(),
    shared<32, 64>(kLong),
    shared<64, 32>(kLong),
    resident<32, 64, 1, 1>(),
    resident<64, 32, 1, 1>(),
    shared<64, 64>(0),
    resident<16, 16, 1, 1>(),
    resident<16, 32, 1, 2>(),
    resident<32, 16, 2, 1>(),
    resident<16, 32, 2, 1>()};

// The one with the least work for a layer, or null.
const Variant* variant_of(const BttSizes& s, int64_t rows, int experts) {
  if (s.gamma <= 0 || s.gamma % kVector != 0 || s.phi <= 0 ||
      s.phi % kVector != 0 || s.rho <= 0) {
    return nullptr;
  }
  const Variant* best = nullptr;
  for (const Variant& v : kVariants) {
    if (s.alpha <= v.alpha && s.epsilon <= v.epsilon &&
        (v.from_rows == 0 || (experts == 1 && rows >= v.from_rows)) &&
        (best == nullptr || v.work(s) < best->work(s))) {
      best = &v;
    }
  }
  return best;
}

// Few waves of the clusters that run at once, and full ones. A block's start
// and end take as long as some tiles; 32 splits' partial sums are enough.
int splits_of(
    const Variant& v,
    const BttSizes& s,
    int64_t rows,
    const DeviceLimits& limits) {
  constexpr int64_t kStartTiles = 10;
  constexpr int64_t kMostSplits = 32;
  Launch launch(v.threads, v.shared_bytes, nullptr);
  launch.set_cluster(v.cluster());
  const int64_t at_once = launch.clusters_at_once(
      reinterpret_cast<const void*>(v.kernel), limits.multiprocessors);
  const int64_t clusters = v.clusters(s);
  const int64_t tiles = ceil_div(rows, kBackwardTokens);
  const int64_t most = std::clamp<int64_t>(
      tiles / 2, 1, std::max(kMostSplits, at_once / clusters));
  int64_t best = 1;
  int64_t best_time = INT64_MAX;
  for (int64_t splits = 1; splits <= most; ++splits) {
    const int64_t waves = ceil_div(clusters * splits, at_once);
    const int64_t time =
        waves * (ceil_div(tiles, splits) + kStartTiles) + splits / 4;
    if (time < best_time) {
      best = splits;
      best_time = time;
    }
  }
  return static_cast<int>(best);
}

}  // namespace

bool btt_backward_supports(const BttSizes& s, const DeviceLimits& limits) {
  const auto fits = [&](int64_t rows) {
    const Variant* v = variant_of(s, rows, 1);
    return v != nullptr && v->shared_bytes <= limits.shared_bytes;
  };
  return limits.major == 9 && fits(1) && fits(kLong);
}

bool btt_backward_sums_bias(const BttSizes& s) {
  const Variant* v = variant_of(s, 1, 1);
  return v != nullptr && v->sums_bias;
}

BttBackwardSpace btt_backward_space(
    const BttSizes& s, int64_t rows, int experts, const DeviceLimits& limits) {
  const size_t cores =
      static_cast<size_t>(s.gamma) * s.phi * s.rho * (s.alpha + s.epsilon);
  const Variant& v = *variant_of(s, rows, experts);
  const int splits = splits_of(v, s, rows, limits);
  return {
      .splits = splits,
      .bytes = sizeof(float) *
               (cores * static_cast<size_t>(splits + experts - 1) +
                static_cast<size_t>(splits) * v.gamma_ranks * s.d_out())};
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
  const RoutedRows& rows = launch.rows;
  const bool routed = rows.offsets != nullptr;
  const Variant& v =
      *variant_of(s, routed ? rows.pairs : launch.tokens, rows.experts);
  if (launch.dbias != nullptr && (!v.sums_bias || routed)) {
    return cudaErrorInvalidValue;
  }
  const int splits = launch.splits;
  const int slots = splits + rows.experts - 1;
  auto* a_partials = static_cast<float*>(launch.workspace);
  auto* b_partials = a_partials + static_cast<int64_t>(slots) * s.gamma *
                                      s.alpha * s.phi * s.rho;
  BttBackwardParams params{
      .x =
          {.activations = {},
           .core = cores.a,
           .row_stride = cores.a_strides.in,
           .own_stride = cores.a_strides.gamma,
           .other_stride = cores.a_strides.phi,
           .rho_stride = cores.a_strides.rho,
           .expert_stride = cores.a_expert,
           .partials = a_partials,
           .own = s.gamma,
           .row = s.alpha,
           .other = s.phi},
      .dy =
          {.activations = {},
           .core = cores.b,
           .row_stride = cores.b_strides.in,
           .own_stride = cores.b_strides.phi,
           .other_stride = cores.b_strides.gamma,
           .rho_stride = cores.b_strides.rho,
           .expert_stride = cores.b_expert,
           .partials = b_partials,
           .own = s.phi,
           .row = s.epsilon,
           .other = s.gamma},
      .tokens = launch.tokens,
      .rho = s.rho,
      .gamma_groups = v.gamma_groups(s),
      .phi_groups = v.phi_groups(s),
      .splits = splits,
      .rows = rows,
      .gates = launch.gates,
      .bias = launch.dbias == nullptr
                  ? nullptr
                  : b_partials + static_cast<int64_t>(slots) * s.phi *
                                     s.epsilon * s.gamma * s.rho};
  cudaError_t status = encode_tensor_map(
      &params.x.activations,
      launch.x,
      s.d_in(),
      launch.tokens,
      {s.gamma, s.alpha, kBackwardOwn, v.alpha, 1});
  if (status != cudaSuccess) {
    return status;
  }
  status = encode_tensor_map(
      &params.dy.activations,
      launch.dy,
      s.d_out(),
      launch.tokens,
      {s.phi, s.epsilon, kBackwardOwn, v.epsilon, 1});
  if (status != cudaSuccess) {
    return status;
  }
  Launch configured(v.threads, v.shared_bytes, stream);
  configured.set_cluster(v.cluster());
  configured.enable_pdl();
  status = configured.run(
      routed ? v.routed : v.kernel,
      static_cast<unsigned>(v.clusters(s) * splits),
      params);
  if (status != cudaSuccess) {
    return status;
  }
  if (launch.dbias != nullptr) {
    status = column_sums(
        params.bias, splits * v.gamma_ranks, s.d_out(), launch.dbias, stream);
    if (status != cudaSuccess) {
      return status;
    }
  }
  return btt_sum_partials(
      {{{.sizes = BttWeightGradSizes(s),
         .sums = a_partials,
         .grad = launch.da,
         .strides = launch.da_strides,
         .expert_stride = launch.da_expert},
        {.sizes = BttWeightGradSizes(s.transposed()),
         .sums = b_partials,
         .grad = launch.db,
         .strides = launch.db_strides.exchanged(),
         .expert_stride = launch.db_expert}},
       splits,
       rows},
      limits,
      stream);
}

}  // namespace einforge::kernels::cuda
