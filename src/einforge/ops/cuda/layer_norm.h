#pragma once

#include <torch/types.h>

// Norms of short rows of bfloat16 (layer_norm.h) by one kernel each way.
namespace einforge::ops::fused {

bool takes_layer_norm(
    const torch::Tensor& x,
    const torch::Tensor& gain,
    const torch::Tensor& bias);

// Differentiable, twice too; saves x and the gain.
torch::Tensor layer_norm(
    const torch::Tensor& x, const torch::Tensor& gain, double epsilon);

}  // namespace einforge::ops::fused
