#pragma once

#include "einforge/kernels/cuda/btt_resident.cuh"
#include "einforge/kernels/cuda/tensor_map.h"

// The host's side of one register-resident kernel, plain or routed.
namespace einforge::kernels::cuda {

struct ResidentKernel {
  // What one TMA copy moves.
  struct Box {
    bool lines;  // of a token's features, not rows of gammas or phis
    int columns;
    int rows;
    int tokens;
  };
  BttSizes sizes;
  int cluster;
  int chunks;
  int threads;
  int bytes;
  Box x;
  Box y;
  void (*kernel)(const BttResidentParams);
};

template <typename S, bool kRouted>
constexpr ResidentKernel resident_kernel() {
  constexpr int kXColumns = S::kXRow / 2;
  constexpr int kYColumns = S::kYRow / 2;
  return {
      {S::kAlpha, S::kGamma, S::kEpsilon, S::kPhi, S::kRho},
      S::kCluster,
      S::kChunks,
      BttResident<S, kRouted>::kThreads,
      S::kBytes,
      {S::kXLines,
       kXColumns,
       S::kAlpha * S::kGammas / kXColumns,
       kRouted ? 1 : kResidentTokens / S::kParts},
      {S::kYLines,
       kYColumns,
       S::kEpsilons * S::kPhis / kYColumns,
       kRouted ? 1 : kResidentTokens},
      btt_resident_fwd_sm90<S, kRouted>};
}

// The kernels of the shapes of a table (btt_resident_layout.h).
template <bool kRouted>
struct ResidentKernels {
  template <typename... S>
  struct Of {
    static constexpr ResidentKernel all[sizeof...(S)] = {
        resident_kernel<S, kRouted>()...};
  };
};

// Of `kernels` the one that holds a layer of these sizes with the fewest
// weights, zeros among them; or null where all would have very many zeros.
template <size_t kCount>
const ResidentKernel* find_resident(
    const ResidentKernel (&kernels)[kCount], const BttSizes& s) {
  const auto fits = [](const ResidentKernel::Box& box,
                       int rows,
                       int columns,
                       int most_rows,
                       int most_columns) {
    return rows <= most_rows && columns <= most_columns &&
           columns % kVector == 0 &&
           (!box.lines ||
            (columns == most_columns && rows * columns % box.columns == 0));
  };
  constexpr size_t kMostTimes = 8;  // the layer's own weights
  size_t least = kMostTimes * btt_packed_bytes(s) + 1;
  const ResidentKernel* best = nullptr;
  for (const ResidentKernel& k : kernels) {
    const size_t bytes = btt_packed_bytes(k.sizes);
    if (s.rho == k.sizes.rho && bytes < least &&
        fits(k.x, s.alpha, s.gamma, k.sizes.alpha, k.sizes.gamma) &&
        fits(k.y, s.epsilon, s.phi, k.sizes.epsilon, k.sizes.phi)) {
      best = &k;
      least = bytes;
    }
  }
  return best;
}

// Launches `kernel` on a layer for so many tiles at most; `params` lacks only
// the maps, the layer's sizes and the weights.
[[nodiscard]] cudaError_t launch_resident(
    const ResidentKernel& kernel,
    const BttSizes& sizes,
    const BttLaunch& launch,
    int64_t y_rows,
    int64_t tiles,
    BttResidentParams& params,
    const DeviceLimits& limits,
    cudaStream_t stream);

}  // namespace einforge::kernels::cuda
