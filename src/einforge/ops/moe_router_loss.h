#pragma once

#include <torch/types.h>

#include <tuple>

namespace einforge::ops {

// The loss that keeps a router's load even and its scores small, registered as
// torch.ops.einforge.moe_router_loss:
//
//   balance_weight E sum_i(p_i f_i) + z_weight mean(logsumexp(logits)^2)
//
// p_i the mean over tokens of softmax(logits)_i, f_i the share of assignments
// that expert i has; 0 of no tokens.
//
// @param logits (T, E), float32 or float64
// @param experts (T, k), int32 or int64, that the tokens take
// @return the loss, without dimensions, in the dtype of the logits; and the
//   number of assignments that each expert has, (E) int64
// Differentiable once, in the logits; saves them and the counts. On CUDA in
// float32 up to 256 experts two kernels forward and one backward; never waits
// for the device.
// Source: arXiv 2101.03961, section 2.2 (load); arXiv 2202.08906, section 3.1
// (z-loss).
std::tuple<torch::Tensor, torch::Tensor> moe_router_loss(
    const torch::Tensor& logits,
    const torch::Tensor& experts,
    double balance_weight,
    double z_weight);

// Its gradient of the logits.
//
// @param counts as moe_router_loss() returns them
torch::Tensor moe_router_loss_backward(
    const torch::Tensor& grad,
    const torch::Tensor& logits,
    const torch::Tensor& counts,
    double balance_weight,
    double z_weight);

}  // namespace einforge::ops
