#include "einforge/ops/btt_moe_routed.h"

#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <optional>
#include <tuple>

#include "einforge/ops/autocast_dtype.h"
#include "einforge/ops/btt_moe_linear.h"
#include "einforge/ops/sum_of_rows.h"
#ifdef EINFORGE_HAVE_CUDA
#include "einforge/ops/cuda/btt_moe_fused.h"
#include "einforge/ops/cuda/moe_router.h"
#endif

namespace einforge::ops {
namespace {

using torch::Tensor;
using torch::autograd::variable_list;

BttMoeRouted by_definition(
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

#ifdef EINFORGE_HAVE_CUDA
// Saves the operands, the scores and the order of the pairs, and no
// intermediate. Inputs are x, router, the cores and the output's bias; outputs
// y, logits, experts and gates.
class Routed : public torch::autograd::Function<Routed> {
 public:
  static variable_list forward(
      torch::autograd::AutogradContext* context,
      const Tensor& x,
      const Tensor& router,
      const Tensor& core_a,
      const Tensor& core_b,
      const std::optional<Tensor>& output_bias,
      std::int64_t active,
      bool softmax_first,
      const std::optional<Tensor>& bias) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    const fused::RoutedForward result = fused::routed_forward(
        {x, router, core_a, core_b, output_bias.value_or(Tensor())},
        active,
        {.softmax_first = softmax_first, .bias = bias});
    const auto& [experts, gates] = result.routing;
    context->set_materialize_grads(false);
    context->mark_non_differentiable({experts});
    context->save_for_backward(
        {x,
         router,
         core_a,
         core_b,
         result.logits,
         experts,
         gates,
         result.pairs.offsets,
         result.pairs.order,
         bias.value_or(Tensor())});
    context->saved_data["softmax_first"] = softmax_first;
    if (output_bias) {
      context->saved_data["output_bias"] = output_bias->scalar_type();
    }
    return {result.y, result.logits, experts, gates};
  }

  static variable_list backward(
      torch::autograd::AutogradContext* context, const variable_list& grads) {
    const c10::impl::ExcludeDispatchKeyGuard guard(
        c10::autocast_dispatch_keyset);
    const variable_list saved = context->get_saved_variables();
    const bool softmax_first = context->saved_data["softmax_first"].toBool();
    const fused::RoutedOperands operands{
        saved[0], saved[1], saved[2], saved[3]};
    const fused::RoutedForward forward{
        .logits = saved[4],
        .routing = {saved[5], saved[6]},
        .pairs = {saved[7], saved[8]}};
    const fused::RoutedOutputGradients given{grads[0], grads[1], grads[3]};
    const GradientMask mask{
        context->needs_input_grad(0),
        context->needs_input_grad(1),
        context->needs_input_grad(2),
        context->needs_input_grad(3)};
    variable_list result(8);
    const auto output_bias = context->saved_data.find("output_bias");
    if (output_bias != context->saved_data.end() &&
        context->needs_input_grad(4) && given.y.defined()) {
      result[4] = sum_of_rows(given.y, output_bias->second.toScalarType());
    }
    if (at::GradMode::is_enabled()) {
      differentiable(operands, saved, softmax_first, given, mask, result);
    } else if (given.y.defined()) {
      const fused::RoutedGradients found =
          fused::routed_backward(operands, forward, given, softmax_first, mask);
      result[0] = found.x;
      result[1] = found.router;
      result[2] = found.core_a;
      result[3] = found.core_b;
    } else {
      const Tensor dlogits = of_logits(forward, given, softmax_first);
      if (dlogits.defined()) {
        const auto found = fused::logits_backward(
            dlogits, operands.x, operands.router, {mask[0], mask[1]});
        result[0] = found[0];
        result[1] = found[1];
      }
    }
    return result;
  }

 private:
  // What has a graph of its own comes by the definition's.
  static void differentiable(
      const fused::RoutedOperands& operands,
      const variable_list& saved,
      bool softmax_first,
      const fused::RoutedOutputGradients& given,
      const GradientMask& mask,
      variable_list& result) {
    const BttMoeRouted again = by_definition(
        operands.x,
        operands.router,
        operands.core_a,
        operands.core_b,
        saved[6].size(1),
        {.softmax_first = softmax_first,
         .bias =
             saved[9].defined() ? std::make_optional(saved[9]) : std::nullopt},
        /*output_bias=*/std::nullopt);
    variable_list outputs;
    variable_list grads;
    const auto add = [&](const Tensor& output, const Tensor& grad) {
      if (grad.defined()) {
        outputs.push_back(output);
        grads.push_back(grad);
      }
    };
    add(again.y, given.y);
    add(again.logits, given.logits);
    add(again.routing.gates, given.gates);
    variable_list inputs;
    for (std::size_t i = 0; i < mask.size(); ++i) {
      if (mask[i]) {
        inputs.push_back(saved[i]);
      }
    }
    if (outputs.empty()) {
      return;
    }
    const variable_list found = torch::autograd::grad(
        outputs,
        inputs,
        grads,
        /*retain_graph=*/std::nullopt,
        /*create_graph=*/true,
        /*allow_unused=*/true);
    std::size_t next = 0;
    for (std::size_t i = 0; i < mask.size(); ++i) {
      if (mask[i]) {
        result[i] = found[next++];
      }
    }
  }

  static Tensor of_logits(
      const fused::RoutedForward& forward,
      const fused::RoutedOutputGradients& given,
      bool softmax_first) {
    if (!given.gates.defined()) {
      return given.logits;
    }
    const Tensor grad = fused::route_backward(
        given.gates, forward.logits, forward.routing, softmax_first);
    return given.logits.defined() ? grad + given.logits : grad;
  }
};
#endif

std::tuple<Tensor, Tensor, Tensor, Tensor> btt_moe_routed_op(
    const Tensor& x,
    const Tensor& router,
    const Tensor& core_a,
    const Tensor& core_b,
    std::int64_t active,
    bool softmax_first,
    const std::optional<Tensor>& bias,
    const std::optional<Tensor>& output_bias) {
  const BttMoeRouted result = btt_moe_routed(
      x,
      router,
      core_a,
      core_b,
      active,
      {.softmax_first = softmax_first, .bias = bias},
      output_bias);
  return {
      result.y, result.logits, result.routing.experts, result.routing.gates};
}

}  // namespace

BttMoeRouted btt_moe_routed(
    const Tensor& x,
    const Tensor& router,
    const Tensor& core_a,
    const Tensor& core_b,
    std::int64_t active,
    const MoeRouteOptions& options,
    const std::optional<Tensor>& output_bias) {
  TORCH_CHECK(
      router.dim() == 2 && router.size(0) == core_a.size(0),
      "[btt_moe_routed] expected router of size (",
      core_a.size(0),
      ", d_in), a row for each expert; got ",
      router.sizes());
  if (output_bias) {
    const std::int64_t d_out = expert_sizes(core_a, core_b).d_out();
    TORCH_CHECK(
        output_bias->dim() == 1 && output_bias->size(0) == d_out,
        "[btt_moe_routed] expected output_bias of size (",
        d_out,
        "); got ",
        output_bias->sizes());
  }
#ifdef EINFORGE_HAVE_CUDA
  // The router sees x as it is, which must then be autocast's own.
  if (in_autocast_dtype(x).is_same(x)) {
    const Tensor a = in_autocast_dtype(core_a);
    const Tensor b = in_autocast_dtype(core_b);
    if (fused::takes_routed(
            {x, router, a, b, output_bias.value_or(Tensor())}, active)) {
      const variable_list found = Routed::apply(
          x,
          router,
          a,
          b,
          output_bias,
          active,
          options.softmax_first,
          options.bias);
      return {found[0], found[1], {found[2], found[3]}};
    }
  }
#endif
  return by_definition(x, router, core_a, core_b, active, options, output_bias);
}

TORCH_LIBRARY_FRAGMENT(einforge, m) {
  m.def(
      "btt_moe_routed(Tensor x, Tensor router, Tensor core_a, Tensor core_b, "
      "int active, bool softmax_first=False, Tensor? bias=None, Tensor? "
      "output_bias=None) -> (Tensor, Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(einforge, CompositeImplicitAutograd, m) {
  m.impl("btt_moe_routed", btt_moe_routed_op);
}

}  // namespace einforge::ops
