#pragma once

#include <torch/types.h>

#include <optional>

namespace einforge::ops {

// Nothing where the tensor is undefined, as operators take what may be absent.
inline std::optional<torch::Tensor> optional(const torch::Tensor& tensor) {
  return tensor.defined() ? std::make_optional(tensor) : std::nullopt;
}

}  // namespace einforge::ops
