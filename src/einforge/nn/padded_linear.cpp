#include "einforge/nn/padded_linear.h"

#include <torch/types.h>

namespace einforge::nn {

PaddedLinear::PaddedLinear(
    const structure::Structure& structure,
    const EinsumLinearOptions& options,
    const at::Generator& generator)
    : structure_(structure) {
  EinsumLinearOptions inner = options;
  inner.bias = false;
  inner_ = register_module(
      "inner",
      std::make_shared<EinsumLinear>(
          structure::padded(structure), inner, generator));
  if (options.bias) {
    bias_ = add_parameter("bias", torch::zeros({structure.d_out}));
  }
}

torch::Tensor PaddedLinear::forward(
    const torch::Tensor& x, const std::optional<ops::MoeRouting>& /*unused*/) {
  const torch::Tensor y = forward_unbiased(x).y;
  return bias_.defined() ? y + bias_.to(y.scalar_type()) : y.contiguous();
}

ops::Unbiased PaddedLinear::forward_unbiased(
    const torch::Tensor& x, const std::optional<ops::MoeRouting>& /*unused*/) {
  const std::int64_t zeros = structure_.sizes.d_in() - structure_.d_in;
  return {
      inner_->forward(torch::constant_pad_nd(x, {0, zeros}))
          .narrow(-1, 0, structure_.d_out),
      bias_};
}

torch::Tensor PaddedLinear::merge() {
  return inner_->merge()
      .narrow(0, 0, structure_.d_out)
      .narrow(1, 0, structure_.d_in);
}

}  // namespace einforge::nn
