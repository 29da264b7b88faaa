#include "einforge/nn/moe_linear.h"

#include <torch/types.h>

#include <vector>

#include "einforge/nn/observer.h"
#include "einforge/ops/autocast_dtype.h"
#include "einforge/ops/btt_moe_linear.h"
#include "einforge/ops/moe_grouped.h"
#include "einforge/ops/optional_tensor.h"
#include "einforge/ops/rms_cap.h"

namespace einforge::nn {
namespace {

torch::Tensor with_bias(const torch::Tensor& y, const torch::Tensor& bias) {
  return bias.defined() ? y + bias.to(y.scalar_type()) : y;
}

}  // namespace

MoeLinear::MoeLinear(
    const structure::Structure& expert,
    const MoeOptions& options,
    const EinsumLinearOptions& linear,
    const at::Generator& generator)
    : MoeLayer(expert.d_in, options, linear.base_width, generator),
      expert_(expert),
      cap_(linear.cap) {
  const auto cores = structure::parametrisation(expert, linear.base_width);
  const structure::Sizes& n = expert.sizes;
  // As in EinsumLinear, for all experts at once.
  const auto initial = [&](const std::vector<std::int64_t>& sizes,
                           std::size_t core) {
    return torch::empty(sizes, torch::kFloat64)
        .normal_(0, cores[core].init_std, generator)
        .to(torch::kFloat32);
  };
  const auto rule = [&](std::size_t core) {
    return ParameterRule{cores[core].lr_multiplier, /*decay=*/true};
  };
  if (expert.dense) {
    torch::Tensor weight =
        initial({options.experts, expert.d_out, expert.d_in}, 0);
    if (linear.zero) {
      weight.zero_();
    }
    weight_ = add_parameter("weight", weight, rule(0));
  } else {
    torch::Tensor a =
        initial({options.experts, n.alpha, n.gamma, n.delta, n.phi, n.rho}, 0);
    torch::Tensor b =
        initial({options.experts, n.beta, n.gamma, n.epsilon, n.phi, n.rho}, 1);
    if (linear.zero) {
      const bool b_last = structure::cheaper_order(n) == structure::Order::kAB;
      (b_last ? b : a).zero_();
    }
    core_a_ = add_parameter("core_a", ops::expert_core_a_layout(a, n), rule(0));
    core_b_ = add_parameter("core_b", ops::expert_core_b_layout(b, n), rule(1));
    max_rms_a_ = cores[0].init_std;
    max_rms_b_ = cores[1].init_std;
    if (linear.cap && linear.gain) {
      gain_a_ = add_parameter("gain_a", torch::ones({}));
      gain_b_ = add_parameter("gain_b", torch::ones({}));
    }
  }
  if (linear.bias) {
    bias_ = add_parameter("bias", torch::zeros({expert.d_out}));
  }
  if (options.shared_expert) {
    EinsumLinearOptions shared = linear;
    shared.bias = false;
    shared_ = register_module(
        "shared", std::make_shared<EinsumLinear>(expert, shared, generator));
  }
}

torch::Tensor MoeLinear::mix(
    const torch::Tensor& x,
    const std::optional<ops::MoeRouting>& given,
    const torch::Tensor& bias) {
  if (!expert_.dense) {
    const torch::Tensor a =
        cap_ ? ops::rms_cap(core_a_, ops::optional(gain_a_), max_rms_a_)
             : core_a_;
    const torch::Tensor b =
        cap_ ? ops::rms_cap(core_b_, ops::optional(gain_b_), max_rms_b_)
             : core_b_;
    if (!given && router() != nullptr) {
      return router()->forward_btt(x, a, b, ops::optional(bias));
    }
    const ops::MoeRouting routing = route(x, given);
    return with_bias(
        ops::btt_moe_linear(x, a, b, routing.experts, routing.gates), bias);
  }
  const ops::MoeRouting routing = route(x, given);
  auto y_sizes = x.sizes().vec();
  y_sizes.back() = expert_.d_out;
  const ops::MoeDispatch dispatch =
      ops::moe_dispatch(routing.experts, experts());
  const torch::Tensor rows =
      ops::moe_gather(x.reshape({-1, expert_.d_in}), dispatch);  // (T k, d_in)
  return with_bias(
      ops::moe_combine(
          ops::moe_grouped_linear(rows, weight_, dispatch.offsets),
          dispatch,
          routing.gates)
          .view(y_sizes),
      bias);
}

torch::Tensor MoeLinear::forward(
    const torch::Tensor& x, const std::optional<ops::MoeRouting>& routing) {
  return apply(x, routing, bias_);
}

ops::Unbiased MoeLinear::forward_unbiased(
    const torch::Tensor& x, const std::optional<ops::MoeRouting>& routing) {
  if (Observer::is_there()) {
    return {forward(x, routing), {}};
  }
  return {apply(x, routing, {}), bias_};
}

torch::Tensor MoeLinear::apply(
    const torch::Tensor& input,
    const std::optional<ops::MoeRouting>& routing,
    const torch::Tensor& bias) {
  // Once for the router and the experts, which keep it for backward.
  const torch::Tensor x = ops::in_autocast_dtype(input);
  torch::Tensor y = mix(x, routing, bias);  // (..., d_out)
  if (shared_ != nullptr) {
    y = y + shared_->forward(x);
  }
  Observer::show(*this, x, y);
  return y;
}

}  // namespace einforge::nn
