#include "einforge/models/linear.h"

#include "einforge/nn/einsum_linear.h"
#include "einforge/nn/moe_ffn.h"
#include "einforge/nn/moe_linear.h"
#include "einforge/nn/observer.h"
#include "einforge/nn/padded_linear.h"
#include "einforge/ops/ffn.h"
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

ops::Unbiased ffn(
    nn::TokenLayer& in,
    nn::TokenLayer& out,
    const torch::Tensor& x,
    bool unbiased) {
  auto* first = dynamic_cast<nn::EinsumLinear*>(&in);
  auto* second = dynamic_cast<nn::EinsumLinear*>(&out);
  const auto is_fused = [&] {
    return !first->structure().dense && !second->structure().dense &&
           !nn::Observer::is_there() &&
           ops::ffn_is_fused(
               x,
               {.in = first->structure().sizes,
                .out = second->structure().sizes,
                .in_bias = first->bias().defined(),
                .out_bias = !unbiased && second->bias().defined()});
  };
  if (first != nullptr && second != nullptr && is_fused()) {
    ops::FfnLayer last = second->operands(x);
    if (unbiased) {
      last.bias.reset();
    }
    return {
        ops::ffn(x, first->operands(x), last),
        unbiased ? second->bias() : torch::Tensor()};
  }
  const torch::Tensor hidden = with_gelu(in, x);
  return unbiased ? out.forward_unbiased(hidden)
                  : ops::Unbiased{out.forward(hidden), {}};
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
