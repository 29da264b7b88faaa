#include "einforge/ops/rms_cap.h"

#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

namespace einforge::ops {
namespace {

using torch::Tensor;
using torch::autograd::variable_list;

class RmsCap : public torch::autograd::Function<RmsCap> {
 public:
  static Tensor forward(
      torch::autograd::AutogradContext* context,
      const Tensor& core,
      const std::optional<Tensor>& gain,
      double max_rms,
      std::optional<torch::ScalarType> dtype) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    context->save_for_backward({core, gain.value_or(Tensor())});
    context->saved_data["max_rms"] = max_rms;
    return rms_cap(core, gain, max_rms, dtype);
  }

  static variable_list backward(
      torch::autograd::AutogradContext* context, const variable_list& grads) {
    if (!grads[0].defined()) {
      return variable_list(4);
    }
    const variable_list saved = context->get_saved_variables();
    const bool has_gain = saved[1].defined();
    auto [core, gain] = rms_cap_backward(
        grads[0],
        saved[0],
        has_gain ? std::optional<Tensor>(saved[1]) : std::nullopt,
        context->saved_data["max_rms"].toDouble());
    return {core, has_gain ? gain : Tensor(), Tensor(), Tensor()};
  }
};

Tensor forward(
    const Tensor& core,
    const std::optional<Tensor>& gain,
    double max_rms,
    std::optional<torch::ScalarType> dtype) {
  return RmsCap::apply(core, gain, max_rms, dtype);
}

}  // namespace

TORCH_LIBRARY_IMPL(einforge, Autograd, m) {
  m.impl("rms_cap", forward);
  m.impl("rms_cap_backward", torch::autograd::autogradNotImplementedFallback());
}

}  // namespace einforge::ops
