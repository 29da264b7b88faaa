#pragma once

#include <cuda_runtime_api.h>

#include "einforge/stable/library.h"

// torch's CUDA streams and guards. The library must load where torch has no
// CUDA, so that what is in libtorch_cuda is looked up when it is needed.
namespace einforge::stable {

// @throw c10::Error where torch has no CUDA, or CUDA fails
cudaStream_t current_cuda_stream();
void check_cuda(cudaError_t error);

}  // namespace einforge::stable

#define C10_CUDA_CHECK(call) ::einforge::stable::check_cuda(call)

namespace c10::cuda {

inline cudaStream_t getCurrentCUDAStream() {
  return einforge::stable::current_cuda_stream();
}

class CUDAGuard {
 public:
  explicit CUDAGuard(DeviceIndex index) : guard_(index) {}
  explicit CUDAGuard(const Device& device) : CUDAGuard(device.index()) {}

 private:
  torch::stable::accelerator::DeviceGuard guard_;
};

enum class CaptureStatus { None, Active };

inline CaptureStatus currentStreamCaptureStatusMayInitCtx() {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  C10_CUDA_CHECK(cudaStreamIsCapturing(getCurrentCUDAStream(), &status));
  return status == cudaStreamCaptureStatusNone ? CaptureStatus::None
                                               : CaptureStatus::Active;
}

}  // namespace c10::cuda
