#include "einforge/kernels/cuda/btt_stream.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <utility>

#include "einforge/kernels/cuda/btt_stream.cuh"

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

// (64 features, features / 64, tokens), the box `rows` rows of 16 tokens.
cudaError_t encode(
    CUtensorMap* map,
    const __nv_bfloat16* data,
    int features,
    int64_t stride,
    int64_t tokens,
    int rows) {
  static const auto function = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result{};
    const cudaError_t status = cudaGetDriverEntryPointByVersion(
        "cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result);
    return status == cudaSuccess && result == cudaDriverEntryPointSuccess
               ? reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(found)
               : nullptr;
  }();
  if (function == nullptr) {
    return cudaErrorNotSupported;
  }
  constexpr int kColumns = kRowBytes / 2;
  const cuuint64_t sizes[3] = {
      kColumns,
      static_cast<cuuint64_t>(features / kColumns),
      static_cast<cuuint64_t>(tokens)};
  const cuuint64_t strides[2] = {
      kRowBytes, static_cast<cuuint64_t>(stride) * 2};
  const cuuint32_t box[3] = {
      kColumns, static_cast<cuuint32_t>(rows), kStreamTokens};
  const cuuint32_t steps[3] = {1, 1, 1};
  const CUresult status = function(
      map,
      CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
      3,
      const_cast<__nv_bfloat16*>(data),
      sizes,
      strides,
      box,
      steps,
      CU_TENSOR_MAP_INTERLEAVE_NONE,
      CU_TENSOR_MAP_SWIZZLE_128B,
      CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return status == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

// How many clusters run at once. A persistent grid must not be larger, and
// clusters of 4 do not fill every group of multiprocessors. Zero: not known.
int active_clusters(StreamKernel kernel, const cudaLaunchConfig_t& config) {
  static std::mutex mutex;
  static std::map<std::pair<StreamKernel, unsigned>, int> known;
  const std::pair key{kernel, config.attrs[0].val.clusterDim.x};
  const std::lock_guard lock(mutex);
  const auto [found, added] = known.try_emplace(key, 0);
  if (added && cudaOccupancyMaxActiveClusters(
                   &found->second, kernel, &config) != cudaSuccess) {
    cudaGetLastError();
    found->second = 0;
  }
  return found->second;
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
  cudaError_t status = encode(
      &params.x_map,
      launch.x,
      s.d_in(),
      launch.x_stride,
      launch.tokens,
      layout.x_token / kRowBytes);
  if (status != cudaSuccess) {
    return status;
  }
  status = encode(
      &params.y_map,
      launch.y,
      s.d_out(),
      launch.y_stride,
      launch.tokens,
      layout.y_token / kRowBytes);
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
    const int active = active_clusters(chosen.kernel, config);
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
