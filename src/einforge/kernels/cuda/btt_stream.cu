#include "einforge/kernels/cuda/btt_stream.h"

#include <algorithm>

#include "einforge/kernels/cuda/btt_stream.cuh"
#include "einforge/kernels/cuda/tensor_map.h"

namespace einforge::kernels::cuda {

namespace {

using StreamKernel = void (*)(const BttStreamParams);

struct KernelChoice {
  StreamKernel kernel = nullptr;
  int threads = 0;
};

template <int kAlpha, int kGamma, int kPhi, bool kResident>
KernelChoice choice() {
  return {
      btt_stream_fwd<kAlpha, kGamma, kPhi, kResident>,
      BttStream<kAlpha, kGamma, kPhi, kResident>::kThreads};
}

template <int kAlpha, int kGamma>
KernelChoice choice(int phi) {
  return phi == 32 ? choice<kAlpha, kGamma, 32, false>()
                   : choice<kAlpha, kGamma, 64, false>();
}

KernelChoice kernel_of(const BttSizes& s, bool resident) {
  if (resident) {
    return s.alpha == 32 && s.gamma == 32 && s.phi == 32
               ? choice<32, 32, 32, true>()
               : KernelChoice{};
  }
  if (s.alpha == 32) {
    return s.gamma == 32 ? choice<32, 32>(s.phi) : choice<32, 64>(s.phi);
  }
  return s.gamma == 32 ? choice<64, 32>(s.phi) : choice<64, 64>(s.phi);
}

StreamLayout layout_of(
    const BttSizes& s, const BttPlan& plan, const DeviceLimits& limits) {
  return stream_layout(
      s.alpha,
      s.gamma,
      s.epsilon,
      s.phi,
      plan.kernel == BttKernel::kResident,
      limits.shared_bytes);
}

// Whether `warps` warps divide a stage's octets and row tiles evenly.
bool divides(int warps, int batches, int rows) {
  const int octets = batches / kVector;
  return octets > 0 && warps % octets == 0 &&
         rows / kFragmentRows % (warps / octets) == 0;
}

// Lines of 128 bytes: the box is `bytes` of each of 16 tokens.
TensorBox lines(int features, int bytes) {
  constexpr int kColumns = kRowBytes / 2;
  return {
      kColumns,
      features / kColumns,
      kColumns,
      bytes / kRowBytes,
      kStreamTokens};
}

}  // namespace

bool stream_supports(
    const BttSizes& s, const BttPlan& plan, const DeviceLimits& limits) {
  const auto size = [](int n) { return n == 32 || n == 64; };
  const bool resident = plan.kernel == BttKernel::kResident;
  const int warps = resident ? 4 : 8;
  if (limits.major < 9 || s.rho != 1 || !size(s.alpha) || !size(s.gamma) ||
      !size(s.epsilon) || !size(s.phi) || !divides(warps, s.gamma, s.phi) ||
      !divides(warps, s.phi, s.epsilon) ||
      kernel_of(s, resident).kernel == nullptr) {
    return false;
  }
  const StreamLayout layout = layout_of(s, plan, limits);
  return layout.bytes <= limits.shared_bytes &&
         (!layout.in_place || s.phi <= s.alpha) &&
         (resident
              ? plan.cluster == 1
              : plan.cluster == 1 || plan.cluster == 2 || plan.cluster == 4);
}

size_t stream_shared_bytes(
    const BttSizes& s, const BttPlan& plan, const DeviceLimits& limits) {
  return static_cast<size_t>(layout_of(s, plan, limits).bytes);
}

cudaError_t stream_forward(
    const BttSizes& s,
    const BttLaunch& launch,
    const BttPlan& plan,
    const DeviceLimits& limits,
    bool after_pack,
    cudaStream_t stream) {
  const bool resident = plan.kernel == BttKernel::kResident;
  const KernelChoice chosen = kernel_of(s, resident);
  const auto* packed = static_cast<const char*>(launch.packed);
  const int64_t tiles = (launch.tokens + kStreamTokens - 1) / kStreamTokens;
  BttStreamParams params{
      .x_map = {},
      .y_map = {},
      .weights_one = packed,
      .weights_two = packed + static_cast<size_t>(s.d_in()) * s.phi * 2,
      .bias = launch.bias,
      .z = launch.z,
      .tokens = launch.tokens,
      .tiles = static_cast<int>(tiles),
      .cluster = plan.cluster,
      .wait_for_pack = after_pack ? 1 : 0,
      .layout = layout_of(s, plan, limits)};
  const StreamLayout& layout = params.layout;
  cudaError_t status = encode_tensor_map(
      &params.x_map,
      launch.x,
      launch.x_stride,
      launch.tokens,
      lines(s.d_in(), layout.x_token));
  if (status != cudaSuccess) {
    return status;
  }
  status = encode_tensor_map(
      &params.y_map,
      launch.y,
      launch.y_stride,
      launch.tokens,
      lines(s.d_out(), layout.y_token));
  if (status != cudaSuccess) {
    return status;
  }
  status = cudaFuncSetAttribute(
      chosen.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, layout.bytes);
  if (status != cudaSuccess) {
    return status;
  }
  const int64_t supers = (tiles + plan.cluster - 1) / plan.cluster;
  int64_t clusters = std::min<int64_t>(
      supers, std::max(1, limits.multiprocessors / plan.cluster));
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(clusters * plan.cluster));
  config.blockDim = dim3(static_cast<unsigned>(chosen.threads));
  config.dynamicSmemBytes = static_cast<size_t>(layout.bytes);
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
