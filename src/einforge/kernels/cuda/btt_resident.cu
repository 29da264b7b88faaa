#include "einforge/kernels/cuda/btt_resident.h"

#include <algorithm>

#include "einforge/kernels/cuda/btt_resident_launch.cuh"
#include "einforge/kernels/cuda/ceil_div.h"
#include "einforge/kernels/cuda/launch.h"

namespace einforge::kernels::cuda {

namespace {

const ResidentKernel* find(const BttSizes& sizes) {
  return find_resident(
      ResidentTable<ResidentKernels</*kRouted=*/false>::Of>::all, sizes);
}

// The layer (columns, rows, tokens) as TMA cuts it.
TensorBox tensor_box(const ResidentKernel::Box& box, int rows, int columns) {
  return {
      box.lines ? box.columns : columns,
      box.lines ? rows * columns / box.columns : rows,
      box.columns,
      box.rows,
      box.tokens};
}

}  // namespace

int resident_cluster(const BttSizes& sizes) {
  const ResidentKernel* found = find(sizes);
  return found == nullptr ? 0 : found->cluster;
}

BttSizes resident_sizes(const BttSizes& sizes) {
  const ResidentKernel* found = find(sizes);
  return found == nullptr ? sizes : found->sizes;
}

bool resident_supports(
    const BttSizes& s, const BttPlan& plan, const DeviceLimits& limits) {
  const ResidentKernel* found = find(s);
  return limits.major == 9 && found != nullptr &&
         plan.cluster == found->cluster && found->bytes <= limits.shared_bytes;
}

size_t resident_shared_bytes(const BttSizes& sizes) {
  const ResidentKernel* found = find(sizes);
  return found == nullptr ? 0 : static_cast<size_t>(found->bytes);
}

cudaError_t resident_forward(
    const BttSizes& s,
    const BttLaunch& launch,
    const DeviceLimits& limits,
    bool after_pack,
    cudaStream_t stream) {
  const int64_t tiles = ceil_div(launch.tokens, kResidentTokens);
  BttResidentParams params{};
  params.bias = launch.bias;
  params.z = launch.z;
  params.tokens = launch.tokens;
  params.tiles = static_cast<int>(tiles);
  params.wait_for_pack = after_pack ? 1 : 0;
  return launch_resident(
      *find(s), s, launch, launch.tokens, tiles, params, limits, stream);
}

cudaError_t launch_resident(
    const ResidentKernel& kernel,
    const BttSizes& s,
    const BttLaunch& launch,
    int64_t y_rows,
    int64_t tiles,
    BttResidentParams& params,
    const DeviceLimits& limits,
    cudaStream_t stream) {
  const BttSizes& k = kernel.sizes;
  params.weights_one = static_cast<const uint4*>(launch.packed);
  params.weights_two = params.weights_one +
                       static_cast<size_t>(k.d_in()) * k.phi * k.rho / kVector;
  params.expert_vectors =
      static_cast<int64_t>(btt_packed_bytes(k) / sizeof(uint4));
  params.gamma = s.gamma;
  params.phi = s.phi;
  cudaError_t status = encode_tensor_map(
      &params.x_map,
      launch.x,
      launch.x_stride,
      launch.tokens,
      tensor_box(kernel.x, s.alpha, s.gamma));
  if (status != cudaSuccess) {
    return status;
  }
  status = encode_tensor_map(
      &params.y_map,
      launch.y,
      launch.y_stride,
      y_rows,
      tensor_box(kernel.y, s.epsilon, s.phi));
  if (status != cudaSuccess) {
    return status;
  }
  Launch configured(kernel.threads, kernel.bytes, stream);
  configured.set_cluster(kernel.cluster);
  if (params.wait_for_pack != 0) {
    configured.enable_pdl();
  }
  const int64_t clusters = std::min<int64_t>(
      tiles * kernel.chunks,
      configured.clusters_at_once(
          reinterpret_cast<const void*>(kernel.kernel),
          limits.multiprocessors));
  return configured.run(kernel.kernel, static_cast<unsigned>(clusters), params);
}

}  // namespace einforge::kernels::cuda
