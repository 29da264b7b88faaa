#include "einforge/ops/autocast_dtype.h"

#include <ATen/autocast_mode.h>

namespace einforge::ops {

torch::Tensor in_autocast_dtype(const torch::Tensor& tensor) {
  const auto device = tensor.device().type();
  return at::autocast::is_autocast_enabled(device)
             ? tensor.to(at::autocast::get_autocast_dtype(device))
             : tensor;
}

}  // namespace einforge::ops
