#include "einforge/ops/einsum_linear.h"

#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

namespace einforge::ops {
namespace {

using torch::Tensor;
using torch::autograd::variable_list;

// The gradients through plain einsums, which autograd can differentiate again;
// slow, and only for those who ask for second derivatives.
variable_list differentiable_backward(
    const Tensor& grad,
    const Tensor& x,
    const Tensor& core_a,
    const Tensor& core_b,
    bool has_bias) {
  const structure::Sizes s = core_sizes(core_a, core_b);
  const Tensor dy = grad.reshape({-1, s.delta, s.epsilon, s.phi});
  const Tensor x4 = x.reshape({-1, s.alpha, s.beta, s.gamma});
  // t: tokens; the others as in the header.
  return {
      torch::einsum("tdef,agdfr,bgefr->tabg", {dy, core_a, core_b})
          .reshape(x.sizes()),
      torch::einsum("tdef,tabg,bgefr->agdfr", {dy, x4, core_b}),
      torch::einsum("tdef,tabg,agdfr->bgefr", {dy, x4, core_a}),
      has_bias ? grad.reshape({-1, s.d_out()}).sum(0) : Tensor()};
}

// Saves x and both cores; z, the intermediate, is computed again.
class EinsumLinear : public torch::autograd::Function<EinsumLinear> {
 public:
  static Tensor forward(
      torch::autograd::AutogradContext* context,
      const Tensor& x,
      const Tensor& core_a,
      const Tensor& core_b,
      const std::optional<Tensor>& bias) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    context->save_for_backward({x, core_a, core_b});
    context->saved_data["has_bias"] = bias.has_value();
    return einsum_linear(x, core_a, core_b, bias);
  }

  static variable_list backward(
      torch::autograd::AutogradContext* context, const variable_list& grads) {
    const variable_list saved = context->get_saved_variables();
    const bool has_bias = context->saved_data["has_bias"].toBool();
    if (!grads[0].defined()) {
      return variable_list(4);
    }
    if (torch::GradMode::is_enabled()) {
      return differentiable_backward(
          grads[0], saved[0], saved[1], saved[2], has_bias);
    }
    const std::array<bool, 4> mask{
        context->needs_input_grad(0),
        context->needs_input_grad(1),
        context->needs_input_grad(2),
        has_bias && context->needs_input_grad(3)};
    auto [x, core_a, core_b, bias] =
        einsum_linear_backward(grads[0], saved[0], saved[1], saved[2], mask);
    return {
        mask[0] ? x : Tensor(),
        mask[1] ? core_a : Tensor(),
        mask[2] ? core_b : Tensor(),
        mask[3] ? bias : Tensor()};
  }
};

Tensor forward(
    const Tensor& x,
    const Tensor& core_a,
    const Tensor& core_b,
    const std::optional<Tensor>& bias) {
  return EinsumLinear::apply(x, core_a, core_b, bias);
}

}  // namespace

TORCH_LIBRARY_IMPL(einforge, Autograd, m) {
  m.impl("einsum_linear", forward);
  m.impl(
      "einsum_linear_backward",
      torch::autograd::autogradNotImplementedFallback());
}

}  // namespace einforge::ops
