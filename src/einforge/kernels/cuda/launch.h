#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace einforge::kernels::cuda {

// The major version of the architecture that this library's code for the
// current device was compiled for; 0 where the build has none that runs there.
[[nodiscard]] int code_major();

// Whether kernels on the current device may be dependent launches
// (Launch::enable_pdl()). Asked once for each device.
[[nodiscard]] bool pdl_supported();

// A launch with what the <<<>>> syntax has no words for.
class Launch {
 public:
  Launch(int threads, int shared_bytes, cudaStream_t stream);
  Launch(const Launch&) = delete;
  Launch& operator=(const Launch&) = delete;

  // Blocks of a cluster. 1: no cluster, also below sm_90.
  void set_cluster(int blocks);
  // sm_90: programmatic dependent launch. The kernel may start before the
  // kernel before it ends, and has to call ptx::grid_dependency_sync().
  void enable_pdl();

  // How many clusters of this launch run at once: a persistent grid must not be
  // larger, and clusters of 4 or 8 do not fill every group of multiprocessors.
  // The device's multiprocessors where that is not known.
  [[nodiscard]] int clusters_at_once(
      const void* kernel, int multiprocessors) const;

  // @param grid in clusters
  template <typename Params>
  [[nodiscard]] cudaError_t run(
      void (*kernel)(Params), const dim3& grid, const Params& params) {
    const cudaError_t status = cudaFuncSetAttribute(
        reinterpret_cast<const void*>(kernel),
        cudaFuncAttributeMaxDynamicSharedMemorySize,
        static_cast<int>(config_.dynamicSmemBytes));
    if (status != cudaSuccess) {
      return status;
    }
    config_.gridDim = grid;
    config_.gridDim.x *= static_cast<unsigned>(cluster_);
    Params copy = params;
    void* arguments[] = {&copy};
    return cudaLaunchKernelExC(
        &config_, reinterpret_cast<const void*>(kernel), arguments);
  }

 private:
  cudaLaunchAttribute attributes_[2]{};
  cudaLaunchConfig_t config_{};
  int cluster_ = 1;
};

}  // namespace einforge::kernels::cuda
