#pragma once

#include <torch/types.h>

#include <tuple>

// moe_router_loss() of float32 logits by two kernels forward and one backward.
namespace einforge::ops::fused {

bool takes_router_loss(const torch::Tensor& logits);

// Of at least one pair.
std::tuple<torch::Tensor, torch::Tensor> router_loss(
    const torch::Tensor& logits,
    const torch::Tensor& experts,
    double balance_weight,
    double z_weight);

torch::Tensor router_loss_backward(
    const torch::Tensor& grad,
    const torch::Tensor& logits,
    const torch::Tensor& counts,
    double balance_weight,
    double z_weight);

}  // namespace einforge::ops::fused
