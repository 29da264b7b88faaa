#include "einforge/ops/cuda/device.h"

#include <c10/cuda/CUDAGuard.h>

#include "einforge/ops/cuda/btt_tuner.h"

namespace einforge::ops {

bool architecture_supported(const torch::Tensor& tensor) {
  if (!tensor.is_cuda()) {
    return false;
  }
  const c10::cuda::CUDAGuard guard(tensor.device());
  return device_limits().major > 0;
}

bool is_hopper() {
  return device_limits().major == 9;
}

}  // namespace einforge::ops
