#include "einforge/ops/btt_moe_routed.h"
#include "einforge/ops/optional_tensor.h"

#include <ATen/autocast_mode.h>
#include <torch/autograd.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <optional>
#include <tuple>

namespace einforge::ops {
namespace {

using torch::Tensor;
using torch::autograd::variable_list;

// Saves the operands, the scores and the choice, and no intermediate. Inputs
// are x, router, the cores and the output's bias; outputs y, logits, experts
// and gates.
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
    const BttMoeRouted result = btt_moe_routed(
        x,
        router,
        core_a,
        core_b,
        active,
        {.softmax_first = softmax_first, .bias = bias},
        output_bias);
    const auto& [experts, gates] = result.routing;
    context->set_materialize_grads(false);
    context->mark_non_differentiable({experts});
    context->save_for_backward(
        {x,
         router,
         core_a,
         core_b,
         output_bias.value_or(Tensor()),
         result.logits,
         experts,
         gates,
         bias.value_or(Tensor())});
    context->saved_data["active"] = active;
    context->saved_data["softmax_first"] = softmax_first;
    return {result.y, result.logits, experts, gates};
  }

  static variable_list backward(
      torch::autograd::AutogradContext* context, const variable_list& grads) {
    const c10::impl::ExcludeDispatchKeyGuard guard(
        c10::autocast_dispatch_keyset);
    const variable_list saved = context->get_saved_variables();
    std::array<bool, 5> mask{};
    for (std::size_t i = 0; i < mask.size(); ++i) {
      mask[i] = saved[i].defined() && context->needs_input_grad(i);
    }
    variable_list result(8);
    if (at::GradMode::is_enabled()) {
      differentiable(context, saved, grads, mask, result);
      return result;
    }
    const auto [x, router, core_a, core_b, output_bias] =
        btt_moe_routed_backward(
            optional(grads[0]),
            optional(grads[1]),
            optional(grads[3]),
            saved[0],
            saved[1],
            saved[2],
            saved[3],
            optional(saved[4]),
            saved[5],
            saved[6],
            saved[7],
            context->saved_data["softmax_first"].toBool(),
            mask);
    const Tensor* found[] = {&x, &router, &core_a, &core_b, &output_bias};
    for (std::size_t i = 0; i < mask.size(); ++i) {
      if (mask[i]) {
        result[i] = *found[i];
      }
    }
    return result;
  }

 private:
  // What has a graph of its own comes by the definition's.
  static void differentiable(
      torch::autograd::AutogradContext* context,
      const variable_list& saved,
      const variable_list& grads,
      const std::array<bool, 5>& mask,
      variable_list& result) {
    const BttMoeRouted again = btt_moe_routed_by_definition(
        saved[0],
        saved[1],
        saved[2],
        saved[3],
        context->saved_data["active"].toInt(),
        {.softmax_first = context->saved_data["softmax_first"].toBool(),
         .bias = optional(saved[8])},
        optional(saved[4]));
    variable_list outputs;
    variable_list given;
    const auto add = [&](const Tensor& output, const Tensor& grad) {
      if (grad.defined()) {
        outputs.push_back(output);
        given.push_back(grad);
      }
    };
    add(again.y, grads[0]);
    add(again.logits, grads[1]);
    add(again.routing.gates, grads[3]);
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
        given,
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
};

std::tuple<Tensor, Tensor, Tensor, Tensor> forward(
    const Tensor& x,
    const Tensor& router,
    const Tensor& core_a,
    const Tensor& core_b,
    std::int64_t active,
    std::optional<bool> softmax_first,
    const std::optional<Tensor>& bias,
    const std::optional<Tensor>& output_bias) {
  const variable_list found = Routed::apply(
      x,
      router,
      core_a,
      core_b,
      output_bias,
      active,
      gates_of_all(softmax_first, active, router.sym_size(0)),
      bias);
  return {found[0], found[1], found[2], found[3]};
}

}  // namespace

TORCH_LIBRARY_IMPL(einforge, Autograd, m) {
  m.impl("btt_moe_routed", forward);
  m.impl(
      "btt_moe_routed_backward",
      torch::autograd::autogradNotImplementedFallback());
}

}  // namespace einforge::ops
