#include "einforge/ops/btt_moe_routed.h"

#include <ATen/autocast_mode.h>
#include <torch/library.h>

#include <tuple>

#include "einforge/ops/btt_moe_linear.h"

namespace einforge::ops {
namespace {

using torch::Tensor;

// The router sees x as it is. Where that is autocast's own dtype, as between
// layers of a network, the operator has it all.
template <c10::DeviceType kDevice, c10::DispatchKey kKey>
std::tuple<Tensor, Tensor, Tensor, Tensor> forward(
    const Tensor& x,
    const Tensor& router,
    const Tensor& core_a,
    const Tensor& core_b,
    std::int64_t active,
    std::optional<bool> softmax_first,
    const std::optional<Tensor>& bias,
    const std::optional<Tensor>& output_bias) {
  const c10::impl::ExcludeDispatchKeyGuard guard(kKey);
  const auto dtype = at::autocast::get_autocast_dtype(kDevice);
  const auto cast = [&](const Tensor& tensor) {
    return at::autocast::cached_cast(dtype, tensor, kDevice);
  };
  const Tensor a = cast(core_a);
  const Tensor b = cast(core_b);
  const MoeRouteOptions options{.softmax_first = softmax_first, .bias = bias};
  const Tensor seen = cast(x);
  if (seen.is_same(x)) {
    const BttMoeRouted all =
        btt_moe_routed(x, router, a, b, active, options, output_bias);
    return {all.y, all.logits, all.routing.experts, all.routing.gates};
  }
  const Tensor logits = moe_logits(x, router);
  const MoeRouting routing = moe_route(logits, active, options);
  const Tensor y = btt_moe_linear(seen, a, b, routing.experts, routing.gates);
  return {
      output_bias ? y + output_bias->to(y.scalar_type()) : y,
      logits,
      routing.experts,
      routing.gates};
}

}  // namespace

TORCH_LIBRARY_IMPL(einforge, AutocastCPU, m) {
  m.impl(
      "btt_moe_routed",
      forward<c10::DeviceType::CPU, c10::DispatchKey::AutocastCPU>);
}

TORCH_LIBRARY_IMPL(einforge, AutocastCUDA, m) {
  m.impl(
      "btt_moe_routed",
      forward<c10::DeviceType::CUDA, c10::DispatchKey::AutocastCUDA>);
}

}  // namespace einforge::ops
