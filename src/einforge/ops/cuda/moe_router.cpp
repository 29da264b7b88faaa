#include "einforge/ops/cuda/moe_router.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "einforge/kernels/cuda/moe_router.h"
#include "einforge/kernels/cuda/moe_router_backward.h"
#include "einforge/kernels/cuda/moe_rows.h"
#include "einforge/ops/cuda/btt_operands.h"
#include "einforge/ops/cuda/device.h"

namespace einforge::ops::fused {
namespace {

namespace ek = kernels::cuda;
using torch::Tensor;

// What both ways have in common; pointers that are only read backward are not
// const because forward writes there.
ek::MoeRouteLaunch route_launch(
    const MoeRouting& routing, std::int64_t experts, bool softmax_first) {
  return {
      .tokens = routing.experts.size(0),
      .experts = static_cast<int>(experts),
      .active = static_cast<int>(routing.experts.size(1)),
      .softmax_first = softmax_first,
      .chosen = const_cast<std::int32_t*>(
          routing.experts.const_data_ptr<std::int32_t>()),
      .gates = const_cast<float*>(routing.gates.const_data_ptr<float>())};
}

MoeRouting empty_routing(
    const Tensor& like, std::int64_t tokens, std::int64_t active) {
  const auto options = like.options().dtype(torch::kFloat32);
  return {
      torch::empty({tokens, active}, options.dtype(torch::kInt32)),
      torch::empty({tokens, active}, options)};
}

Tensor bias_of(const MoeRouteOptions& options) {
  return options.bias ? options.bias->to(torch::kFloat32).contiguous()
                      : Tensor();
}

const float* pointer(const Tensor& tensor) {
  return tensor.defined() ? tensor.const_data_ptr<float>() : nullptr;
}

// Scores, and the choice where `route` has a place for it.
Tensor run_logits(
    const Tensor& x, const Tensor& weight, ek::MoeRouteLaunch route) {
  const auto experts = static_cast<int>(weight.size(0));
  const auto d = static_cast<int>(weight.size(1));
  const Tensor rows = btt::aligned(x.reshape({-1, d}).contiguous());
  const Tensor w = weight.contiguous();
  const Tensor terms = btt::workspace(x, ek::moe_logits_bytes(experts, d));
  Tensor result = torch::empty({rows.size(0), experts}, weight.options());
  route.tokens = rows.size(0);
  route.experts = experts;
  C10_CUDA_CHECK(ek::moe_logits(
      {.x = btt::data(rows),
       .weight = w.const_data_ptr<float>(),
       .d = d,
       .workspace = terms.mutable_data_ptr(),
       .logits = result.mutable_data_ptr<float>(),
       .route = route},
      c10::cuda::getCurrentCUDAStream()));
  return result;
}

// `launch` has what is particular to the caller.
MoeDispatch run_dispatch(
    const Tensor& experts, std::int64_t count, ek::MoeDispatchLaunch launch) {
  const c10::cuda::CUDAGuard guard(experts.device());
  const Tensor flat = experts.contiguous();
  launch.expert = flat.const_data_ptr<std::int32_t>();
  launch.pairs = static_cast<int>(experts.numel());
  launch.experts = static_cast<int>(count);
  const std::int64_t bins = count * launch.bins;
  const Tensor space = btt::workspace(
      experts, ek::moe_dispatch_bytes(launch.pairs, static_cast<int>(bins)));
  launch.workspace = space.mutable_data_ptr();
  MoeDispatch result{
      torch::empty({bins + 1}, experts.options()),
      torch::empty({experts.numel()}, experts.options())};
  launch.offsets = result.offsets.mutable_data_ptr<std::int32_t>();
  launch.order = result.order.mutable_data_ptr<std::int32_t>();
  C10_CUDA_CHECK(ek::moe_dispatch(launch, c10::cuda::getCurrentCUDAStream()));
  return result;
}

}  // namespace

ek::MoeRouteLaunch route_launch(
    const Tensor& logits, const MoeRouting& routing, bool softmax_first) {
  ek::MoeRouteLaunch launch =
      route_launch(routing, logits.size(1), softmax_first);
  launch.logits = logits.const_data_ptr<float>();
  return launch;
}

bool takes_logits(const Tensor& x, const Tensor& weight) {
  return !x.key_set().has(c10::DispatchKey::Python) &&
         architecture_supported(x) && x.scalar_type() == torch::kBFloat16 &&
         weight.scalar_type() == torch::kFloat32 && x.numel() > 0 &&
         ek::moe_router_supports(
             static_cast<int>(weight.size(0)),
             static_cast<int>(weight.size(1)));
}

Tensor logits(const Tensor& x, const Tensor& weight) {
  const c10::cuda::CUDAGuard guard(x.device());
  return run_logits(x, weight, {});
}

std::tuple<Tensor, MoeRouting> logits_route(
    const Tensor& x,
    const Tensor& weight,
    std::int64_t active,
    const MoeRouteOptions& options) {
  const c10::cuda::CUDAGuard guard(x.device());
  const Tensor bias = bias_of(options);
  const MoeRouting routing =
      empty_routing(x, x.numel() / weight.size(1), active);
  ek::MoeRouteLaunch launch = route_launch(
      routing,
      weight.size(0),
      gates_of_all(options.softmax_first, active, weight.size(0)));
  launch.bias = pointer(bias);
  return {run_logits(x, weight, launch), routing};
}

std::array<Tensor, 2> logits_backward(
    const Tensor& grad,
    const Tensor& x,
    const Tensor& weight,
    std::array<bool, 2> asked) {
  const c10::cuda::CUDAGuard guard(x.device());
  const auto experts = static_cast<int>(weight.size(0));
  const auto d = static_cast<int>(weight.size(1));
  const Tensor rows = btt::aligned(x.reshape({-1, d}).contiguous());
  const Tensor w = weight.contiguous();
  const Tensor dlogits = grad.contiguous();
  const Tensor space = btt::workspace(
      x, ek::moe_router_backward_bytes(rows.size(0), experts, d));
  std::array<Tensor, 2> result;
  if (asked[0]) {
    result[0] = torch::empty(x.sizes(), x.options());
  }
  if (asked[1]) {
    result[1] = torch::empty_like(w);
  }
  C10_CUDA_CHECK(ek::moe_router_backward(
      {.x = btt::data(rows),
       .weight = w.const_data_ptr<float>(),
       .d = d,
       .dlogits = dlogits.const_data_ptr<float>(),
       .route = {.tokens = rows.size(0), .experts = experts},
       .workspace = space.mutable_data_ptr(),
       .dx = asked[0] ? btt::mutable_data(result[0]) : nullptr,
       .dweight = asked[1] ? result[1].mutable_data_ptr<float>() : nullptr},
      c10::cuda::getCurrentCUDAStream()));
  return result;
}

bool takes_route(const Tensor& logits, std::int64_t active) {
  return !logits.key_set().has(c10::DispatchKey::Python) &&
         architecture_supported(logits) &&
         logits.scalar_type() == torch::kFloat32 && logits.numel() > 0 &&
         active <= ek::kMoeActive;
}

MoeRouting route(
    const Tensor& logits, std::int64_t active, const MoeRouteOptions& options) {
  const c10::cuda::CUDAGuard guard(logits.device());
  const Tensor scores = logits.contiguous();
  const Tensor bias = bias_of(options);
  MoeRouting result = empty_routing(logits, logits.size(0), active);
  ek::MoeRouteLaunch launch = route_launch(
      scores,
      result,
      gates_of_all(options.softmax_first, active, logits.size(1)));
  launch.bias = pointer(bias);
  C10_CUDA_CHECK(ek::moe_route(launch, c10::cuda::getCurrentCUDAStream()));
  return result;
}

Tensor route_backward(
    const Tensor& grad,
    const Tensor& logits,
    const MoeRouting& routing,
    bool softmax_first) {
  const c10::cuda::CUDAGuard guard(logits.device());
  const Tensor scores = logits.contiguous();
  const Tensor dgates = grad.contiguous();
  Tensor result = torch::empty_like(scores);
  C10_CUDA_CHECK(ek::moe_route_backward(
      route_launch(scores, routing, softmax_first),
      dgates.const_data_ptr<float>(),
      result.mutable_data_ptr<float>(),
      c10::cuda::getCurrentCUDAStream()));
  return result;
}

bool takes_dispatch(const Tensor& experts, std::int64_t count) {
  return architecture_supported(experts) &&
         experts.scalar_type() == torch::kInt32 && experts.numel() > 0 &&
         count <= ek::kMoeExperts;
}

MoeDispatch dispatch(const Tensor& experts, std::int64_t count) {
  return run_dispatch(experts, count, {});
}

std::tuple<MoeDispatch, Tensor> dispatch_slots(
    const MoeRouting& routing, std::int64_t count) {
  Tensor sorted =
      torch::empty({routing.gates.numel()}, routing.gates.options());
  return {
      run_dispatch(
          routing.experts,
          count,
          {.bins = static_cast<int>(routing.experts.size(1)),
           .gates = routing.gates.const_data_ptr<float>(),
           .sorted_gates = sorted.mutable_data_ptr<float>()}),
      sorted};
}

}  // namespace einforge::ops::fused
