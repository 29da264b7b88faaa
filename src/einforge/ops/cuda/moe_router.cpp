#include "einforge/ops/cuda/moe_router.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "einforge/kernels/cuda/moe_router.h"
#include "einforge/kernels/cuda/moe_rows.h"
#include "einforge/ops/cuda/btt_operands.h"

namespace einforge::ops::fused {
namespace {

namespace ek = kernels::cuda;
using torch::Tensor;

ek::MoeRouteLaunch route_launch(
    const Tensor& logits, std::int64_t active, bool softmax_first) {
  return {
      .logits = logits.const_data_ptr<float>(),
      .tokens = logits.size(0),
      .experts = static_cast<int>(logits.size(1)),
      .active = static_cast<int>(active),
      .softmax_first = softmax_first};
}

}  // namespace

bool takes_logits(const Tensor& x, const Tensor& weight, bool backward) {
  return x.is_cuda() && x.scalar_type() == torch::kBFloat16 &&
         weight.scalar_type() == torch::kFloat32 && x.numel() > 0 &&
         ek::moe_router_supports(
             static_cast<int>(weight.size(0)),
             static_cast<int>(weight.size(1)),
             backward);
}

Tensor logits(const Tensor& x, const Tensor& weight) {
  const c10::cuda::CUDAGuard guard(x.device());
  const auto experts = static_cast<int>(weight.size(0));
  const auto d = static_cast<int>(weight.size(1));
  const Tensor rows = btt::aligned(x.contiguous());
  const Tensor w = weight.contiguous();
  const Tensor terms = btt::workspace(x, ek::moe_logits_bytes(experts, d));
  Tensor result = torch::empty({x.size(0), experts}, weight.options());
  C10_CUDA_CHECK(ek::moe_logits(
      btt::data(rows),
      w.const_data_ptr<float>(),
      x.size(0),
      experts,
      d,
      terms.mutable_data_ptr(),
      result.mutable_data_ptr<float>(),
      c10::cuda::getCurrentCUDAStream()));
  return result;
}

std::array<Tensor, 2> logits_backward(
    const Tensor& grad,
    const Tensor& x,
    const Tensor& weight,
    std::array<bool, 2> asked) {
  const c10::cuda::CUDAGuard guard(x.device());
  const auto experts = static_cast<int>(weight.size(0));
  const auto d = static_cast<int>(weight.size(1));
  const Tensor rows = btt::aligned(x.contiguous());
  const Tensor w = weight.contiguous();
  const Tensor dlogits = grad.contiguous();
  const Tensor partials =
      btt::workspace(x, ek::moe_logits_backward_bytes(x.size(0), experts, d));
  std::array<Tensor, 2> result;
  if (asked[0]) {
    result[0] = torch::empty_like(rows);
  }
  if (asked[1]) {
    result[1] = torch::empty_like(w);
  }
  C10_CUDA_CHECK(ek::moe_logits_backward(
      dlogits.const_data_ptr<float>(),
      btt::data(rows),
      w.const_data_ptr<float>(),
      x.size(0),
      experts,
      d,
      partials.mutable_data_ptr(),
      asked[0] ? btt::mutable_data(result[0]) : nullptr,
      asked[1] ? result[1].mutable_data_ptr<float>() : nullptr,
      c10::cuda::getCurrentCUDAStream()));
  return result;
}

bool takes_route(const Tensor& logits, std::int64_t active) {
  return logits.is_cuda() && logits.scalar_type() == torch::kFloat32 &&
         logits.numel() > 0 && active <= ek::kMoeActive;
}

MoeRouting route(
    const Tensor& logits, std::int64_t active, const MoeRouteOptions& options) {
  const c10::cuda::CUDAGuard guard(logits.device());
  const Tensor scores = logits.contiguous();
  const Tensor bias =
      options.bias ? options.bias->to(torch::kFloat32).contiguous() : Tensor();
  MoeRouting result{
      torch::empty(
          {logits.size(0), active}, logits.options().dtype(torch::kInt32)),
      torch::empty({logits.size(0), active}, logits.options())};
  ek::MoeRouteLaunch launch =
      route_launch(scores, active, options.softmax_first);
  launch.bias = bias.defined() ? bias.const_data_ptr<float>() : nullptr;
  launch.chosen = result.experts.mutable_data_ptr<std::int32_t>();
  launch.gates = result.gates.mutable_data_ptr<float>();
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
  ek::MoeRouteLaunch launch =
      route_launch(scores, routing.gates.size(1), softmax_first);
  // Only read here.
  launch.chosen =
      const_cast<std::int32_t*>(routing.experts.const_data_ptr<std::int32_t>());
  launch.gates = const_cast<float*>(routing.gates.const_data_ptr<float>());
  C10_CUDA_CHECK(ek::moe_route_backward(
      launch,
      dgates.const_data_ptr<float>(),
      result.mutable_data_ptr<float>(),
      c10::cuda::getCurrentCUDAStream()));
  return result;
}

bool takes_dispatch(const Tensor& experts, std::int64_t count) {
  return experts.is_cuda() && experts.scalar_type() == torch::kInt32 &&
         experts.numel() > 0 && count <= ek::kMoeExperts;
}

MoeDispatch dispatch(const Tensor& experts, std::int64_t count) {
  const c10::cuda::CUDAGuard guard(experts.device());
  const auto pairs = static_cast<int>(experts.numel());
  const auto number = static_cast<int>(count);
  const Tensor flat = experts.contiguous();
  const Tensor counts =
      btt::workspace(experts, ek::moe_dispatch_bytes(pairs, number));
  MoeDispatch result{
      torch::empty({count + 1}, experts.options()),
      torch::empty({experts.numel()}, experts.options())};
  C10_CUDA_CHECK(ek::moe_dispatch(
      flat.const_data_ptr<std::int32_t>(),
      pairs,
      number,
      counts.mutable_data_ptr(),
      result.offsets.mutable_data_ptr<std::int32_t>(),
      result.order.mutable_data_ptr<std::int32_t>(),
      c10::cuda::getCurrentCUDAStream()));
  return result;
}

}  // namespace einforge::ops::fused
