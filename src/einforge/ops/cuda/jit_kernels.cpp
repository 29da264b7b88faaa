#include "einforge/ops/cuda/jit_kernels.h"

#include <c10/cuda/CUDAException.h>
#include <fmt/format.h>

#include "einforge/ops/cuda/btt_tuner.h"
#include "einforge/ops/cuda/choice_cache.h"

namespace einforge::ops {

kernels::jit::KernelCache& jit_kernels() {
  static kernels::jit::KernelCache cache(cache_directory() / "kernels");
  return cache;
}

std::string jit_architecture() {
  int device = 0;
  int major = 0;
  int minor = 0;
  C10_CUDA_CHECK(cudaGetDevice(&device));
  C10_CUDA_CHECK(cudaDeviceGetAttribute(
      &major, cudaDevAttrComputeCapabilityMajor, device));
  C10_CUDA_CHECK(cudaDeviceGetAttribute(
      &minor, cudaDevAttrComputeCapabilityMinor, device));
  return fmt::format("sm_{}{}{}", major, minor, major >= 9 ? "a" : "");
}

kernels::cuda::two_pass::Device plan_device() {
  const kernels::cuda::DeviceLimits& limits = device_limits();
  return {limits.multiprocessors, limits.shared_bytes};
}

}  // namespace einforge::ops
