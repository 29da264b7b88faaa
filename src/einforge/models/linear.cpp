#include "einforge/models/linear.h"

#include "einforge/nn/einsum_linear.h"
#include "einforge/nn/moe_ffn.h"
#include "einforge/nn/moe_linear.h"
#include "einforge/nn/padded_linear.h"
#include "einforge/ops/gelu.h"

namespace einforge::models {
namespace {

nn::EinsumLinearOptions linear_options(const LinearPlan& plan) {
  return {
      .bias = plan.bias,
      .zero = plan.zero,
      .cap = plan.cap,
      .gain = plan.gain,
      .base_width = plan.base_width};
}

nn::MoeOptions moe_options(const LinearPlan& plan, const MoeConfig& moe) {
  const structure::Mixture& mixture = plan.structure.spec.mixture.value();
  return {
      .experts = mixture.experts,
      .active = mixture.active,
      .shared_expert = plan.shared_expert,
      .external_router = !plan.router,
      .router = moe.router};
}

}  // namespace

std::shared_ptr<nn::TokenLayer> make_linear(
    const LinearPlan& plan,
    const MoeConfig& moe,
    const at::Generator& generator) {
  if (plan.structure.spec.mixture) {
    return std::make_shared<nn::MoeLinear>(
        structure::expert(plan.structure),
        moe_options(plan, moe),
        linear_options(plan),
        generator);
  }
  if (structure::padded(plan.structure) != plan.structure) {
    return std::make_shared<nn::PaddedLinear>(
        plan.structure, linear_options(plan), generator);
  }
  return std::make_shared<nn::EinsumLinear>(
      plan.structure, linear_options(plan), generator);
}

std::shared_ptr<nn::TokenLayer> make_ffn_moe(
    const LinearPlan& in,
    const LinearPlan& out,
    const MoeConfig& moe,
    const at::Generator& generator) {
  nn::EinsumLinearOptions linear = linear_options(out);
  linear.base_width = in.base_width;
  return std::make_shared<nn::FfnMoe>(
      in.structure.d_in,
      in.structure.d_out,
      moe_options(in, moe),
      linear,
      generator,
      out.base_width);
}

torch::Tensor with_gelu(nn::TokenLayer& layer, const torch::Tensor& x) {
  if (!ops::gelu_adds_bias(x)) {
    return ops::gelu(layer.forward(x));
  }
  const auto [y, bias] = layer.forward_unbiased(x);
  return ops::gelu(y, bias);
}

std::shared_ptr<nn::MoeRouter> make_router(
    const LinearPlan& plan,
    const MoeConfig& moe,
    const at::Generator& generator) {
  const structure::Mixture& mixture = plan.structure.spec.mixture.value();
  return std::make_shared<nn::MoeRouter>(
      plan.structure.d_in,
      mixture.experts,
      mixture.active,
      moe.router,
      plan.base_width,
      generator);
}

}  // namespace einforge::models
