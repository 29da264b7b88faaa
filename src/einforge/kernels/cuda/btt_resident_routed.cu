#include "einforge/kernels/cuda/btt_resident.h"
#include "einforge/kernels/cuda/btt_resident_launch.cuh"

namespace einforge::kernels::cuda {

namespace {

const ResidentKernel* find(const BttSizes& sizes) {
  return find_resident(
      ResidentRankOneTable<ResidentKernels</*kRouted=*/true>::Of>::all, sizes);
}

// `params` has what is particular to y.
cudaError_t run(
    const BttSizes& s,
    const BttLaunch& launch,
    const RoutedRows& rows,
    BttResidentParams params,
    int64_t y_rows,
    const DeviceLimits& limits,
    cudaStream_t stream) {
  if (!resident_routed_supports(s, limits)) {
    return cudaErrorInvalidValue;
  }
  params.tokens = launch.tokens;
  params.wait_for_pack = 1;
  params.rows = rows;
  const int64_t tiles = rows.pairs / kResidentTokens + rows.experts;
  return launch_resident(
      *find(s), s, launch, y_rows, tiles, params, limits, stream);
}

}  // namespace

bool resident_routed_supports(const BttSizes& s, const DeviceLimits& limits) {
  const ResidentKernel* found = find(s);
  return limits.major == 9 && found != nullptr &&
         found->bytes <= limits.shared_bytes;
}

cudaError_t resident_routed_rows(
    const BttSizes& s,
    const BttLaunch& launch,
    const RoutedRows& rows,
    const DeviceLimits& limits,
    cudaStream_t stream) {
  return run(s, launch, rows, BttResidentParams{}, rows.pairs, limits, stream);
}

cudaError_t resident_routed_mixture(
    const BttSizes& s,
    const BttLaunch& launch,
    const RoutedRows& rows,
    const float* gates,
    const DeviceLimits& limits,
    cudaStream_t stream) {
  if (rows.bins != rows.active) {
    return cudaErrorInvalidValue;
  }
  cudaError_t status = cudaSuccess;
  for (int slot = 0; slot < rows.bins && status == cudaSuccess; ++slot) {
    RoutedRows of_slot = rows;
    of_slot.first = slot;
    of_slot.last = slot + 1;
    BttResidentParams params{};
    params.gates = gates;
    params.add = slot > 0 ? 1 : 0;
    params.bias = slot > 0 ? nullptr : launch.bias;
    status = run(s, launch, of_slot, params, launch.tokens, limits, stream);
  }
  return status;
}

}  // namespace einforge::kernels::cuda
