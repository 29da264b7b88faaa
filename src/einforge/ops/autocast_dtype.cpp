#include "einforge/ops/autocast_dtype.h"

#include <ATen/autocast_mode.h>

namespace einforge::ops {

torch::ScalarType autocast_dtype(const torch::Tensor& tensor) {
  const auto device = tensor.device().type();
  return at::autocast::is_autocast_enabled(device)
             ? at::autocast::get_autocast_dtype(device)
             : tensor.scalar_type();
}

torch::Tensor in_autocast_dtype(const torch::Tensor& tensor) {
  return tensor.to(autocast_dtype(tensor));
}

}  // namespace einforge::ops
