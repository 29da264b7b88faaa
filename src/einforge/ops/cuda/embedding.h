#pragma once

#include <torch/types.h>

// The sum of two embeddings (embedding.h) by one kernel; not differentiable.
namespace einforge::ops::fused {

bool takes_embedding(
    const torch::Tensor& weight,
    const torch::Tensor& index,
    const torch::Tensor& position);

torch::Tensor embedding(
    const torch::Tensor& weight,
    const torch::Tensor& index,
    const torch::Tensor& position);

}  // namespace einforge::ops::fused
