#include "einforge/kernels/cuda/btt_pinned.h"

#include <algorithm>

#include "einforge/kernels/cuda/btt_pinned.cuh"
#include "einforge/kernels/cuda/tensor_map.h"

namespace einforge::kernels::cuda {

namespace {

// One kernel, as the host must know it.
struct PinnedKernel {
  BttSizes sizes;
  int cluster;
  int chunks;
  int threads;
  int bytes;
  TensorBox x;
  TensorBox y;
  void (*kernel)(const BttPinnedParams);
};

template <typename S>
constexpr PinnedKernel pinned_kernel() {
  constexpr int kLine = 64;  // elements of 128 bytes
  constexpr bool kWhole = S::kPhis == S::kPhi;
  const TensorBox x =
      S::kGroup > 1 ? TensorBox{S::kGamma, S::kAlpha, S::kGammas, S::kAlpha, 0}
                    : TensorBox{
                          kLine,
                          S::kAlpha * S::kGamma / kLine,
                          kLine,
                          S::kAlpha * S::kGamma / kLine,
                          0};
  const TensorBox y =
      kWhole
          ? TensorBox{kLine, S::kEpsilon * S::kPhi / kLine, kLine, S::kEpsilons * S::kPhi / kLine, 0}
          : TensorBox{S::kPhi, S::kEpsilon, S::kPhis, S::kEpsilons, 0};
  PinnedKernel k{
      {S::kAlpha, S::kGamma, S::kEpsilon, S::kPhi, S::kRho},
      S::kCluster,
      S::kChunks,
      BttPinned<S>::kThreads,
      S::kBytes,
      x,
      y,
      btt_pinned_fwd<S>};
  k.x.box_tokens = kPinnedTokens / S::kParts;
  k.y.box_tokens = kPinnedTokens;
  return k;
}

template <typename... S>
struct Kernels {
  static constexpr PinnedKernel all[sizeof...(S)] = {pinned_kernel<S>()...};
};

const PinnedKernel* find(const BttSizes& sizes) {
  for (const PinnedKernel& k : PinnedTable<Kernels>::all) {
    if (k.sizes == sizes) {
      return &k;
    }
  }
  return nullptr;
}

}  // namespace

int pinned_cluster(const BttSizes& sizes) {
  const PinnedKernel* found = find(sizes);
  return found == nullptr ? 0 : found->cluster;
}

bool pinned_supports(
    const BttSizes& s, const BttPlan& plan, const DeviceLimits& limits) {
  const PinnedKernel* found = find(s);
  return limits.major == 9 && found != nullptr &&
         plan.cluster == found->cluster && found->bytes <= limits.shared_bytes;
}

size_t pinned_shared_bytes(const BttSizes& sizes) {
  const PinnedKernel* found = find(sizes);
  return found == nullptr ? 0 : static_cast<size_t>(found->bytes);
}

cudaError_t pinned_forward(
    const BttSizes& s,
    const BttLaunch& launch,
    const BttPlan& plan,
    const DeviceLimits& limits,
    bool after_pack,
    cudaStream_t stream) {
  const PinnedKernel& chosen = *find(s);
  const auto* packed = static_cast<const uint4*>(launch.packed);
  const int64_t tiles = (launch.tokens + kPinnedTokens - 1) / kPinnedTokens;
  BttPinnedParams params{
      .x_map = {},
      .y_map = {},
      .weights_one = packed,
      .weights_two =
          packed + static_cast<size_t>(s.d_in()) * s.phi * s.rho / kVector,
      .bias = launch.bias,
      .z = launch.z,
      .tokens = launch.tokens,
      .tiles = static_cast<int>(tiles),
      .wait_for_pack = after_pack ? 1 : 0};
  cudaError_t status = encode_tensor_map(
      &params.x_map, launch.x, launch.x_stride, launch.tokens, chosen.x);
  if (status != cudaSuccess) {
    return status;
  }
  status = encode_tensor_map(
      &params.y_map, launch.y, launch.y_stride, launch.tokens, chosen.y);
  if (status != cudaSuccess) {
    return status;
  }
  status = cudaFuncSetAttribute(
      chosen.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, chosen.bytes);
  if (status != cudaSuccess) {
    return status;
  }
  int64_t clusters = std::min<int64_t>(
      tiles * chosen.chunks,
      std::max(1, limits.multiprocessors / plan.cluster));
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(clusters * plan.cluster));
  config.blockDim = dim3(static_cast<unsigned>(chosen.threads));
  config.dynamicSmemBytes = static_cast<size_t>(chosen.bytes);
  config.stream = stream;
  cudaLaunchAttribute attributes[2];
  config.attrs = attributes;
  if (plan.cluster > 1) {
    cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = static_cast<unsigned>(plan.cluster);
    attribute.val.clusterDim.y = 1;
    attribute.val.clusterDim.z = 1;
    const int active =
        active_clusters(reinterpret_cast<const void*>(chosen.kernel), config);
    if (active > 0) {
      clusters = std::min<int64_t>(clusters, active);
      config.gridDim.x = static_cast<unsigned>(clusters * plan.cluster);
    }
  }
  if (after_pack) {
    cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
  }
  return cudaLaunchKernelEx(&config, chosen.kernel, params);
}

}  // namespace einforge::kernels::cuda
