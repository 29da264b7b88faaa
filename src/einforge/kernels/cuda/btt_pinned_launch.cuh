#pragma once

#include "einforge/kernels/cuda/btt_pinned.cuh"
#include "einforge/kernels/cuda/tensor_map.h"

// The host's side of one pinned kernel, plain or routed.
namespace einforge::kernels::cuda {

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

template <typename S, bool kRouted>
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
      BttPinned<S, kRouted>::kThreads,
      S::kBytes,
      x,
      y,
      btt_pinned_fwd<S, kRouted>};
  k.x.box_tokens = kRouted ? 1 : kPinnedTokens / S::kParts;
  k.y.box_tokens = kRouted ? 1 : kPinnedTokens;
  return k;
}

// Those of `kernels` for these sizes, or null.
template <size_t kCount>
const PinnedKernel* find_pinned(
    const PinnedKernel (&kernels)[kCount], const BttSizes& sizes) {
  for (const PinnedKernel& k : kernels) {
    if (k.sizes == sizes) {
      return &k;
    }
  }
  return nullptr;
}

// Launches `kernel` for so many tiles at most; `params` lacks only the maps
// and the weights.
[[nodiscard]] cudaError_t launch_pinned(
    const PinnedKernel& kernel,
    const BttLaunch& launch,
    int64_t y_rows,
    int64_t tiles,
    BttPinnedParams& params,
    const DeviceLimits& limits,
    cudaStream_t stream);

}  // namespace einforge::kernels::cuda
