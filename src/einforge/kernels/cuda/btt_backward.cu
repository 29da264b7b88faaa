#include "einforge/kernels/cuda/btt_backward.h"

#include <algorithm>
#include <utility>

#include "einforge/kernels/cuda/btt_backward.cuh"
#include "einforge/kernels/cuda/btt_weight_grad.h"
#include "einforge/kernels/cuda/tensor_map.h"

namespace einforge::kernels::cuda {

namespace {

using BackwardKernel = void (*)(const BttBackwardParams);

struct Variant {
  BackwardKernel kernel;
  BackwardKernel routed;
  int alpha;
  int epsilon;
  int threads;
  int shared_bytes;
};

template <int kAlpha, int kEpsilon>
constexpr Variant variant() {
  using Tile = BttBackwardTile<kAlpha, kEpsilon>;
  return {
      btt_backward_partials<Tile, false>,
      btt_backward_partials<Tile, true>,
      kAlpha,
      kEpsilon,
      Tile::kThreads,
      Tile::kSharedBytes};
}

constexpr Variant kVariants[] = {
    variant<32, 32>(), variant<32, 64>(), variant<64, 32>(), variant<64, 64>()};

const Variant* variant_of(const BttSizes& s) {
  constexpr int kPair = 2 * kBackwardOwn;
  for (const Variant& v : kVariants) {
    if (v.alpha == s.alpha && v.epsilon == s.epsilon && s.gamma > 0 &&
        s.gamma % kPair == 0 && s.phi > 0 && s.phi % kPair == 0 && s.rho > 0) {
      return &v;
    }
  }
  return nullptr;
}

// Clusters that share the tokens of one split.
int clusters_of(const BttSizes& s) {
  return s.gamma / kBackwardOwn * (s.phi / kBackwardOwn) / kBackwardCluster *
         s.rho;
}

struct Launch {
  cudaLaunchConfig_t config{};
  cudaLaunchAttribute cluster{};
};

void configure(Launch& launch, const Variant& v, cudaStream_t stream) {
  launch.cluster.id = cudaLaunchAttributeClusterDimension;
  launch.cluster.val.clusterDim.x = kBackwardCluster;
  launch.cluster.val.clusterDim.y = 1;
  launch.cluster.val.clusterDim.z = 1;
  launch.config.gridDim = dim3(kBackwardCluster);
  launch.config.blockDim = dim3(static_cast<unsigned>(v.threads));
  launch.config.dynamicSmemBytes = static_cast<size_t>(v.shared_bytes);
  launch.config.stream = stream;
  launch.config.attrs = &launch.cluster;
  launch.config.numAttrs = 1;
}

// One wave of the clusters that run at once; a split of fewer than two tiles
// would mostly wait.
int splits_of(
    const Variant& v,
    const BttSizes& s,
    int64_t rows,
    const DeviceLimits& limits) {
  Launch launch;
  configure(launch, v, nullptr);
  cudaFuncSetAttribute(
      v.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, v.shared_bytes);
  const int active =
      active_clusters(reinterpret_cast<const void*>(v.kernel), launch.config);
  const int clusters =
      active > 0 ? active : limits.multiprocessors / kBackwardCluster;
  const int64_t tiles = (rows + kBackwardTokens - 1) / kBackwardTokens;
  return static_cast<int>(std::clamp<int64_t>(
      tiles / 2, 1, std::max(1, clusters / clusters_of(s))));
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
           .other = s.gamma},
      .tokens = launch.tokens,
      .rho = s.rho,
      .gamma_pairs = s.gamma / kBackwardOwn / 2,
      .phi_pairs = s.phi / kBackwardOwn / 2,
      .splits = splits,
      .rows = rows,
      .gates = launch.gates};
  cudaError_t status = encode_tensor_map(
      &params.x.activations,
      launch.x,
      s.d_in(),
      launch.tokens,
      {s.gamma, s.alpha, kBackwardOwn, s.alpha, 1});
  if (status != cudaSuccess) {
    return status;
  }
  status = encode_tensor_map(
      &params.dy.activations,
      launch.dy,
      s.d_out(),
      launch.tokens,
      {s.phi, s.epsilon, kBackwardOwn, s.epsilon, 1});
  if (status != cudaSuccess) {
    return status;
  }
  const BackwardKernel kernel = routed ? v.routed : v.kernel;
  status = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, v.shared_bytes);
  if (status != cudaSuccess) {
    return status;
  }
  Launch configured;
  configure(configured, v, stream);
  configured.config.gridDim.x =
      static_cast<unsigned>(kBackwardCluster * clusters_of(s) * splits);
  status = cudaLaunchKernelEx(&configured.config, kernel, params);
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
