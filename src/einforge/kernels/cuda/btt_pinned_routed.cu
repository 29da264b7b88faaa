#include "einforge/kernels/cuda/btt_pinned.h"
#include "einforge/kernels/cuda/btt_pinned_launch.cuh"

namespace einforge::kernels::cuda {

namespace {

// Square layers and those of four times the width, at 512 to 4096.
constexpr PinnedKernel kKernels[] = {
    pinned_kernel<PinnedShape<16, 32, 32, 16, 1, 1, 1, 1>, true>(),
    pinned_kernel<PinnedShape<32, 16, 16, 32, 1, 1, 1, 1>, true>(),
    pinned_kernel<PinnedShape<32, 16, 64, 32, 1, 1, 1, 1>, true>(),
    pinned_kernel<PinnedShape<64, 32, 32, 16, 1, 1, 1, 1>, true>(),
    pinned_kernel<PinnedShape<32, 32, 32, 32, 1, 1, 1, 1>, true>(),
    pinned_kernel<PinnedShape<64, 32, 64, 32, 1, 2, 1, 1>, true>(),
    pinned_kernel<PinnedShape<32, 64, 64, 32, 1, 2, 2, 2>, true>(),
    pinned_kernel<PinnedShape<64, 32, 32, 64, 1, 2, 2, 1>, true>(),
    pinned_kernel<PinnedShape<64, 64, 64, 64, 1, 2, 4, 2>, true>(),
    pinned_kernel<PinnedShape<32, 32, 64, 64, 1, 4, 1, 1>, true>(),
    pinned_kernel<PinnedShape<64, 64, 32, 32, 1, 1, 4, 2>, true>()};

}  // namespace

bool pinned_routed_supports(const BttSizes& s, const DeviceLimits& limits) {
  const PinnedKernel* found = find_pinned(kKernels, s);
  return limits.major == 9 && found != nullptr &&
         found->bytes <= limits.shared_bytes;
}

cudaError_t pinned_routed_forward(
    const BttSizes& s,
    const BttLaunch& launch,
    const RoutedRows& rows,
    const DeviceLimits& limits,
    cudaStream_t stream) {
  if (!pinned_routed_supports(s, limits)) {
    return cudaErrorInvalidValue;
  }
  BttPinnedParams params{};
  params.tokens = launch.tokens;
  params.wait_for_pack = 1;
  params.rows = rows;
  const int64_t tiles = rows.pairs / kPinnedTokens + rows.experts;
  return launch_pinned(
      *find_pinned(kKernels, s),
      launch,
      rows.pairs,
      tiles,
      params,
      limits,
      stream);
}

}  // namespace einforge::kernels::cuda
