#pragma once

#include <torch/types.h>

namespace einforge::ops {

// What autocast has for the tensor's device; the tensor's own where it is off.
torch::ScalarType autocast_dtype(const torch::Tensor& tensor);

// The tensor in the dtype that autocast has for its device; as it is where
// autocast is off. What several operators read is best cast once, before.
// Differentiable.
torch::Tensor in_autocast_dtype(const torch::Tensor& tensor);

}  // namespace einforge::ops
