#include "einforge/ops/dense_linear.h"

#include <ATen/autocast_mode.h>
#include <ATen/ops/mm.h>
#include <torch/autograd.h>

#include "einforge/ops/autocast_dtype.h"
#include "einforge/ops/sum_of_rows.h"

namespace einforge::ops {
namespace {

using torch::Tensor;
using torch::autograd::variable_list;

class DenseLinear : public torch::autograd::Function<DenseLinear> {
 public:
  // x in autocast's dtype, parameters in float32.
  static Tensor forward(
      torch::autograd::AutogradContext* context,
      const Tensor& x,
      const Tensor& weight,
      const std::optional<Tensor>& bias) {
    const c10::impl::ExcludeDispatchKeyGuard guard(
        c10::autocast_dispatch_keyset);
    const Tensor cast = weight.to(x.scalar_type());
    context->save_for_backward({x, cast});
    context->saved_data["bias"] = bias.has_value();
    return torch::linear(x, cast, bias ? bias->to(x.scalar_type()) : Tensor());
  }

  static variable_list backward(
      torch::autograd::AutogradContext* context, const variable_list& grads) {
    const c10::impl::ExcludeDispatchKeyGuard guard(
        c10::autocast_dispatch_keyset);
    const variable_list saved = context->get_saved_variables();
    const Tensor& x = saved[0];
    const Tensor& weight = saved[1];
    const Tensor grad = grads[0].reshape({-1, weight.size(0)});  // (T, d_out)
    variable_list result(3);
    if (context->needs_input_grad(0)) {
      result[0] = grad.mm(weight).view(x.sizes());
    }
    if (context->needs_input_grad(1)) {
      result[1] =
          at::mm(grad.t(), x.reshape({-1, weight.size(1)}), torch::kFloat32);
    }
    if (context->saved_data["bias"].toBool() && context->needs_input_grad(2)) {
      result[2] = sum_of_rows(grad, torch::kFloat32);
    }
    return result;
  }
};

}  // namespace

Tensor dense_linear(
    const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
  if (torch::GradMode::is_enabled() && x.is_cuda() && x.numel() > 0 &&
      at::autocast::is_autocast_enabled(torch::kCUDA) &&
      at::autocast::get_autocast_dtype(torch::kCUDA) != torch::kFloat32 &&
      weight.scalar_type() == torch::kFloat32 &&
      (!bias || bias->scalar_type() == torch::kFloat32)) {
    return DenseLinear::apply(in_autocast_dtype(x), weight, bias);
  }
  return torch::linear(x, weight, bias);
}

}  // namespace einforge::ops
