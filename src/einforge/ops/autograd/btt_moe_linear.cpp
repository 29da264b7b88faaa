#include "einforge/ops/btt_moe_linear.h"

#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

namespace einforge::ops {
namespace {

using torch::Tensor;
using torch::autograd::variable_list;

// Saves the operands; which pairs go where and all products are computed
// again.
class BttMoeLinear : public torch::autograd::Function<BttMoeLinear> {
 public:
  static Tensor forward(
      torch::autograd::AutogradContext* context,
      const Tensor& x,
      const Tensor& core_a,
      const Tensor& core_b,
      const Tensor& experts,
      const Tensor& gates) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    context->save_for_backward({x, core_a, core_b, experts, gates});
    return btt_moe_linear(x, core_a, core_b, experts, gates);
  }

  static variable_list backward(
      torch::autograd::AutogradContext* context, const variable_list& grads) {
    if (!grads[0].defined()) {
      return variable_list(5);
    }
    const variable_list saved = context->get_saved_variables();
    const std::array<bool, 4> mask{
        context->needs_input_grad(0),
        context->needs_input_grad(1),
        context->needs_input_grad(2),
        context->needs_input_grad(4)};
    const auto [x, core_a, core_b, gates] = btt_moe_linear_backward(
        grads[0], saved[0], saved[1], saved[2], saved[3], saved[4], mask);
    return {
        mask[0] ? x : Tensor(),
        mask[1] ? core_a : Tensor(),
        mask[2] ? core_b : Tensor(),
        Tensor(),
        mask[3] ? gates : Tensor()};
  }
};

Tensor forward(
    const Tensor& x,
    const Tensor& core_a,
    const Tensor& core_b,
    const Tensor& experts,
    const Tensor& gates) {
  return BttMoeLinear::apply(x, core_a, core_b, experts, gates);
}

}  // namespace

TORCH_LIBRARY_IMPL(einforge, Autograd, m) {
  m.impl("btt_moe_linear", forward);
  m.impl(
      "btt_moe_linear_backward",
      torch::autograd::autogradNotImplementedFallback());
}

}  // namespace einforge::ops
