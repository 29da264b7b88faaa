#pragma once

#include <torch/types.h>

#include <array>
#include <cstdint>
#include <optional>
#include <tuple>

#include "einforge/ops/moe_routing.h"

namespace einforge::ops {

struct BttMoeRouted {
  torch::Tensor y;       // (..., d_out), the dtype of x
  torch::Tensor logits;  // (T, E), the dtype of router; for losses
  MoeRouting routing;
};

// A mixture with its router, by definition
//
//   logits = moe_logits(x, router)
//   routing = moe_route(logits, active, options)
//   y = btt_moe_linear(x, core_a, core_b, routing.experts, routing.gates)
//       + output_bias
//
// and where a kernel has all of it (bfloat16 x and cores, float32 router, on
// sm_90) without the passes over memory between these: the choice comes with
// the scores, and backward adds the router's part of x's gradient to the
// layer's as it sums that. Also torch.ops.einforge.btt_moe_routed, which
// returns (y, logits, experts, gates).
//
// Differentiable in x, router, cores and output_bias, by y, logits and gates.
// Under autocast the cores are cast to its dtype, and the layer sees x in it;
// the router sees x as it is.
//
// @param output_bias (d_out), cast to the dtype of y
// @throw c10::Error when a size, dtype or device does not fit
BttMoeRouted btt_moe_routed(
    const torch::Tensor& x,
    const torch::Tensor& router,
    const torch::Tensor& core_a,
    const torch::Tensor& core_b,
    std::int64_t active,
    const MoeRouteOptions& options = {},
    const std::optional<torch::Tensor>& output_bias = std::nullopt);

// Its gradients of x, router, core_a, core_b and output_bias, also
// torch.ops.einforge.btt_moe_routed_backward.
//
// @param grad_y, grad_logits, grad_gates of the outputs, or none
// @param logits, experts, gates what btt_moe_routed returned
// @param softmax_first as gates_of_all() decides
// @param output_mask which of the five to compute; the others are of size (0)
std::tuple<
    torch::Tensor,
    torch::Tensor,
    torch::Tensor,
    torch::Tensor,
    torch::Tensor>
btt_moe_routed_backward(
    const std::optional<torch::Tensor>& grad_y,
    const std::optional<torch::Tensor>& grad_logits,
    const std::optional<torch::Tensor>& grad_gates,
    const torch::Tensor& x,
    const torch::Tensor& router,
    const torch::Tensor& core_a,
    const torch::Tensor& core_b,
    const std::optional<torch::Tensor>& output_bias,
    const torch::Tensor& logits,
    const torch::Tensor& experts,
    const torch::Tensor& gates,
    bool softmax_first,
    std::array<bool, 5> output_mask);

// The formula above by the operators that it names; differentiable by them.
BttMoeRouted btt_moe_routed_by_definition(
    const torch::Tensor& x,
    const torch::Tensor& router,
    const torch::Tensor& core_a,
    const torch::Tensor& core_b,
    std::int64_t active,
    const MoeRouteOptions& options,
    const std::optional<torch::Tensor>& output_bias);

}  // namespace einforge::ops
