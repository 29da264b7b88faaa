#include "einforge/ops/btt_moe_routed.h"

#include <torch/library.h>

#include <optional>
#include <tuple>

#include "einforge/ops/btt_moe_linear.h"

TORCH_LIBRARY_FRAGMENT(einforge, m) {
  m.def(
      "btt_moe_routed(Tensor x, Tensor router, Tensor core_a, Tensor core_b, "
      "int active, bool? softmax_first=None, Tensor? bias=None, Tensor? "
      "output_bias=None) -> (Tensor, Tensor, Tensor, Tensor)",
      {at::Tag::pt2_compliant_tag});
  m.def(
      "btt_moe_routed_backward(Tensor? grad_y, Tensor? grad_logits, Tensor? "
      "grad_gates, Tensor x, Tensor router, Tensor core_a, Tensor core_b, "
      "Tensor? output_bias, Tensor logits, Tensor experts, Tensor gates, bool "
      "softmax_first, bool[5] output_mask) -> (Tensor, Tensor, Tensor, Tensor, "
      "Tensor)",
      {at::Tag::pt2_compliant_tag});
}

namespace einforge::ops {

using torch::Tensor;

BttMoeRouted btt_moe_routed(
    const Tensor& x,
    const Tensor& router,
    const Tensor& core_a,
    const Tensor& core_b,
    std::int64_t active,
    const MoeRouteOptions& options,
    const std::optional<Tensor>& output_bias) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("einforge::btt_moe_routed", "")
                             .typed<std::tuple<Tensor, Tensor, Tensor, Tensor>(
                                 const Tensor&,
                                 const Tensor&,
                                 const Tensor&,
                                 const Tensor&,
                                 std::int64_t,
                                 std::optional<bool>,
                                 const std::optional<Tensor>&,
                                 const std::optional<Tensor>&)>();
  auto [y, logits, experts, gates] = op.call(
      x,
      router,
      core_a,
      core_b,
      active,
      options.softmax_first,
      options.bias,
      output_bias);
  return {y, logits, {experts, gates}};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> btt_moe_routed_backward(
    const std::optional<Tensor>& grad_y,
    const std::optional<Tensor>& grad_logits,
    const std::optional<Tensor>& grad_gates,
    const Tensor& x,
    const Tensor& router,
    const Tensor& core_a,
    const Tensor& core_b,
    const std::optional<Tensor>& output_bias,
    const Tensor& logits,
    const Tensor& experts,
    const Tensor& gates,
    bool softmax_first,
    std::array<bool, 5> output_mask) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("einforge::btt_moe_routed_backward", "")
          .typed<decltype(btt_moe_routed_backward)>();
  return op.call(
      grad_y,
      grad_logits,
      grad_gates,
      x,
      router,
      core_a,
      core_b,
      output_bias,
      logits,
      experts,
      gates,
      softmax_first,
      output_mask);
}

BttMoeRouted btt_moe_routed_by_definition(
    const Tensor& x,
    const Tensor& router,
    const Tensor& core_a,
    const Tensor& core_b,
    std::int64_t active,
    const MoeRouteOptions& options,
    const std::optional<Tensor>& output_bias) {
  const Tensor logits = moe_logits(x, router);
  const MoeRouting routing = moe_route(logits, active, options);
  const Tensor y =
      btt_moe_linear(x, core_a, core_b, routing.experts, routing.gates);
  return {
      output_bias ? y + output_bias->to(y.scalar_type()) : y, logits, routing};
}

}  // namespace einforge::ops
