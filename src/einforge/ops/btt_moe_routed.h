#pragma once

#include <torch/types.h>

#include <cstdint>
#include <optional>

#include "einforge/ops/moe_routing.h"

namespace einforge::ops {

struct BttMoeRouted {
  torch::Tensor y;       // (..., d_out), the dtype of x
  torch::Tensor logits;  // (T, E), the dtype of router; for losses
  MoeRouting routing;
};

// A mixture with its router, by definition
//
//   logits = moe_logits(x, router); routing = moe_route(logits, active,
//   options) y = btt_moe_linear(x, core_a, core_b, routing.experts,
//   routing.gates) + output_bias
//
// and where a kernel has all of it (bfloat16 x and cores, float32 router, on
// sm_90) without the passes over memory between these: the choice comes with
// the scores, and backward adds the router's part of x's gradient to the
// layer's as it sums that. Also torch.ops.einforge.btt_moe_routed, which
// returns (y, logits, experts, gates).
//
// Differentiable in x, router, cores and output_bias, by y, logits and gates.
//
// @param output_bias (d_out), cast to the dtype of y
BttMoeRouted btt_moe_routed(
    const torch::Tensor& x,
    const torch::Tensor& router,
    const torch::Tensor& core_a,
    const torch::Tensor& core_b,
    std::int64_t active,
    const MoeRouteOptions& options = {},
    const std::optional<torch::Tensor>& output_bias = std::nullopt);

}  // namespace einforge::ops
