#include "einforge/kernels/cuda/launch.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <tuple>

namespace einforge::kernels::cuda {

namespace {

__global__ void any_kernel() {}

}  // namespace

int code_major() {
  cudaFuncAttributes attributes{};
  if (cudaFuncGetAttributes(
          &attributes, reinterpret_cast<const void*>(any_kernel)) !=
      cudaSuccess) {
    cudaGetLastError();
    return 0;
  }
  return attributes.ptxVersion / 10;
}

bool pdl_supported() {
  static std::mutex mutex;
  static std::map<int, bool> known;
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess) {
    cudaGetLastError();
    return false;
  }
  const std::lock_guard lock(mutex);
  const auto [found, added] = known.try_emplace(device, false);
  if (added) {
    found->second = code_major() >= 9;
  }
  return found->second;
}

Launch::Launch(int threads, int shared_bytes, cudaStream_t stream) {
  config_.gridDim = dim3(1);
  config_.blockDim = dim3(static_cast<unsigned>(threads));
  config_.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config_.stream = stream;
  config_.attrs = attributes_;
}

void Launch::set_cluster(int blocks) {
  if (blocks > 1) {
    cudaLaunchAttribute& attribute = attributes_[config_.numAttrs++];
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = static_cast<unsigned>(blocks);
    attribute.val.clusterDim.y = 1;
    attribute.val.clusterDim.z = 1;
    cluster_ = blocks;
  }
}

void Launch::enable_pdl() {
  cudaLaunchAttribute& attribute = attributes_[config_.numAttrs++];
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
}

int Launch::clusters_at_once(const void* kernel, int multiprocessors) const {
  const int share = std::max(1, multiprocessors / cluster_);
  if (cluster_ == 1) {
    return share;
  }
  static std::mutex mutex;
  static std::map<std::tuple<int, const void*, int>, int> known;
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess) {
    cudaGetLastError();
    return share;
  }
  const std::lock_guard lock(mutex);
  const auto [found, added] = known.try_emplace({device, kernel, cluster_}, 0);
  if (added) {
    cudaLaunchConfig_t config = config_;
    config.gridDim.x = static_cast<unsigned>(cluster_);
    if (cudaFuncSetAttribute(
            kernel,
            cudaFuncAttributeMaxDynamicSharedMemorySize,
            static_cast<int>(config.dynamicSmemBytes)) != cudaSuccess ||
        cudaOccupancyMaxActiveClusters(&found->second, kernel, &config) !=
            cudaSuccess) {
      cudaGetLastError();
      found->second = 0;
    }
  }
  return found->second > 0 ? std::min(found->second, share) : share;
}

}  // namespace einforge::kernels::cuda
