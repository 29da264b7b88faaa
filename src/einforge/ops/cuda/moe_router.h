#pragma once

#include <torch/types.h>

#include <array>
#include <tuple>

#include "einforge/ops/moe_routing.h"

namespace einforge::kernels::cuda {
struct MoeRouteLaunch;
}

// The steps of routing (moe_routing.h) in one or two kernels each, where these
// take the problem; none is differentiable by itself.
namespace einforge::ops::fused {

// x bfloat16, weight float32 on CUDA.
bool takes_logits(const torch::Tensor& x, const torch::Tensor& weight);

// @param x (..., d), at least one row
torch::Tensor logits(const torch::Tensor& x, const torch::Tensor& weight);

// The choice with it, as route() makes it.
std::tuple<torch::Tensor, MoeRouting> logits_route(
    const torch::Tensor& x,
    const torch::Tensor& weight,
    std::int64_t active,
    const MoeRouteOptions& options);

// Gradients of x and of the weight; undefined where not asked for.
std::array<torch::Tensor, 2> logits_backward(
    const torch::Tensor& grad,
    const torch::Tensor& x,
    const torch::Tensor& weight,
    std::array<bool, 2> asked);

// logits (T, E) float32 on CUDA, T > 0.
bool takes_route(const torch::Tensor& logits, std::int64_t active);

MoeRouting route(
    const torch::Tensor& logits,
    std::int64_t active,
    const MoeRouteOptions& options);

// A routing that was, as its gradients take it; contiguous logits.
kernels::cuda::MoeRouteLaunch route_launch(
    const torch::Tensor& logits, const MoeRouting& routing, bool softmax_first);

// @param grad (T, k), of the gates
// @return (T, E)
torch::Tensor route_backward(
    const torch::Tensor& grad,
    const torch::Tensor& logits,
    const MoeRouting& routing,
    bool softmax_first);

// experts (T, k) int32 on CUDA, T k > 0, at most 256 experts.
bool takes_dispatch(const torch::Tensor& experts, std::int64_t count);

MoeDispatch dispatch(const torch::Tensor& experts, std::int64_t count);

// The same with an expert's pairs in the order of their slots, the better
// choices first: `offsets` has a place for each (expert, slot).
//
// @param routing experts (T, k) as for dispatch(), with count k at most 256;
//   gates (T, k) float32, contiguous
// @return and the gates in the order of the pairs, (T k)
std::tuple<MoeDispatch, torch::Tensor> dispatch_slots(
    const MoeRouting& routing, std::int64_t count);

}  // namespace einforge::ops::fused
