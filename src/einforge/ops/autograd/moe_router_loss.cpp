#include "einforge/ops/moe_router_loss.h"

#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

namespace einforge::ops {
namespace {

using torch::Tensor;
using torch::autograd::variable_list;

class MoeRouterLoss : public torch::autograd::Function<MoeRouterLoss> {
 public:
  static variable_list forward(
      torch::autograd::AutogradContext* context,
      const Tensor& logits,
      const Tensor& experts,
      double balance_weight,
      double z_weight) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    const auto [loss, counts] =
        moe_router_loss(logits, experts, balance_weight, z_weight);
    context->save_for_backward({logits, counts});
    context->saved_data["balance_weight"] = balance_weight;
    context->saved_data["z_weight"] = z_weight;
    context->mark_non_differentiable({counts});
    return {loss, counts};
  }

  static variable_list backward(
      torch::autograd::AutogradContext* context, const variable_list& grads) {
    if (!grads[0].defined()) {
      return variable_list(4);
    }
    const variable_list saved = context->get_saved_variables();
    return {
        moe_router_loss_backward(
            grads[0],
            saved[0],
            saved[1],
            context->saved_data["balance_weight"].toDouble(),
            context->saved_data["z_weight"].toDouble()),
        Tensor(),
        Tensor(),
        Tensor()};
  }
};

std::tuple<Tensor, Tensor> forward(
    const Tensor& logits,
    const Tensor& experts,
    double balance_weight,
    double z_weight) {
  const variable_list result =
      MoeRouterLoss::apply(logits, experts, balance_weight, z_weight);
  return {result[0], result[1]};
}

}  // namespace

TORCH_LIBRARY_IMPL(einforge, Autograd, m) {
  m.impl("moe_router_loss", forward);
  m.impl(
      "moe_router_loss_backward",
      torch::autograd::autogradNotImplementedFallback());
}

}  // namespace einforge::ops
