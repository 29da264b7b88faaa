#include "einforge/nn/einsum_linear.h"

#include <c10/core/DeviceGuard.h>
#include <torch/types.h>

#include <optional>
#include <vector>

#include "einforge/nn/observer.h"
#include "einforge/ops/autocast_dtype.h"
#include "einforge/ops/dense_linear.h"
#include "einforge/ops/einsum_linear.h"
#include "einforge/ops/merged.h"
#include "einforge/ops/optional_tensor.h"
#include "einforge/ops/rms_cap.h"

namespace einforge::nn {
namespace {

torch::Tensor normal(
    at::IntArrayRef sizes, double std, const at::Generator& generator) {
  // Drawn in double precision and one after the other, so that a seed means
  // the same weights on every machine.
  return torch::empty(sizes, torch::kFloat64)
      .normal_(0, std, generator)
      .to(torch::kFloat32);
}

}  // namespace

EinsumLinear::EinsumLinear(
    const structure::Structure& structure,
    const EinsumLinearOptions& options,
    const at::Generator& generator)
    : structure_(structure), cap_(options.cap) {
  const auto cores = structure::parametrisation(structure, options.base_width);
  const structure::Sizes& n = structure.sizes;
  const auto rule = [&](std::size_t core) {
    return ParameterRule{cores[core].lr_multiplier, /*decay=*/true};
  };
  if (structure.dense) {
    const std::vector<std::int64_t> sizes = {structure.d_out, structure.d_in};
    weight_ = add_parameter(
        "weight",
        options.zero ? torch::zeros(sizes)
                     : normal(sizes, cores[0].init_std, generator),
        rule(0));
  } else {
    const bool b_last = structure::cheaper_order(n) == structure::Order::kAB;
    torch::Tensor a = normal(
        {n.alpha, n.gamma, n.delta, n.phi, n.rho},
        cores[0].init_std,
        generator);
    torch::Tensor b = normal(
        {n.beta, n.gamma, n.epsilon, n.phi, n.rho},
        cores[1].init_std,
        generator);
    if (options.zero) {
      (b_last ? b : a).zero_();
    }
    // The parameters lie in memory as the operator reads them; gradients and
    // the optimiser's state follow.
    core_a_ = add_parameter("core_a", ops::core_a_layout(a, n), rule(0));
    core_b_ = add_parameter("core_b", ops::core_b_layout(b, n), rule(1));
    max_rms_a_ = cores[0].init_std;
    max_rms_b_ = cores[1].init_std;
    if (options.cap && options.gain) {
      gain_a_ = add_parameter("gain_a", torch::ones({}));
      gain_b_ = add_parameter("gain_b", torch::ones({}));
    }
  }
  if (options.bias) {
    bias_ = add_parameter("bias", torch::zeros({structure.d_out}));
  }
}

torch::Tensor EinsumLinear::core_a() const {
  return cap_ ? ops::rms_cap(core_a_, ops::optional(gain_a_), max_rms_a_)
              : core_a_;
}

torch::Tensor EinsumLinear::core_b() const {
  return cap_ ? ops::rms_cap(core_b_, ops::optional(gain_b_), max_rms_b_)
              : core_b_;
}

torch::Tensor EinsumLinear::apply(
    const torch::Tensor& x, const torch::Tensor& bias) const {
  return structure_.dense
             ? ops::dense_linear(x, weight_, ops::optional(bias))
             : ops::einsum_linear(x, core_a(), core_b(), ops::optional(bias));
}

torch::Tensor EinsumLinear::forward(
    const torch::Tensor& x, const std::optional<ops::MoeRouting>& /*unused*/) {
  torch::Tensor y = infers() ? infer(x) : apply(x, bias_);  // (..., d_out)
  Observer::show(*this, x, y);
  return y;
}

ops::Unbiased EinsumLinear::forward_unbiased(
    const torch::Tensor& x, const std::optional<ops::MoeRouting>& routing) {
  if (infers() || Observer::is_there()) {
    return {forward(x, routing), {}};
  }
  return {apply(x, {}), bias_};
}

bool EinsumLinear::infers() const {
  return inference_ && !structure_.dense && !torch::GradMode::is_enabled();
}

ops::FfnLayer EinsumLinear::operands(const torch::Tensor& x) {
  TORCH_CHECK(!structure_.dense, "[EinsumLinear] expected a layer with cores");
  if (infers()) {
    const Prepared& p = prepare(ops::autocast_dtype(x));
    return {p.core_a, p.core_b, p.bias};
  }
  return {core_a(), core_b(), bias_};
}

void EinsumLinear::set_inference(bool on) {
  inference_ = on;
  prepared_ = {};
}

const EinsumLinear::Prepared& EinsumLinear::prepare(torch::ScalarType dtype) {
  std::array<std::int64_t, 8> now{};
  std::size_t at = 0;
  for (const torch::Tensor* parameter :
       {&core_a_, &core_b_, &gain_a_, &gain_b_}) {
    if (parameter->defined()) {
      now[at] = static_cast<std::int64_t>(parameter->_version());
      now[at + 1] =
          reinterpret_cast<std::intptr_t>(parameter->const_data_ptr());
    }
    at += 2;
  }
  Prepared& p = prepared_;
  if (!p.core_a.defined() || p.dtype != dtype || p.made_from != now) {
    p = {.dtype = dtype, .made_from = now};
    p.core_a = core_a().to(dtype);
    p.core_b = core_b().to(dtype);
  }
  // Not kept: its cost is negligible, and then it is always right.
  p.bias = bias_.defined() ? bias_.to(dtype) : bias_;
  return p;
}

torch::Tensor EinsumLinear::infer(const torch::Tensor& x) {
  const c10::DeviceGuard guard(x.device());  // of which choices are asked
  const auto dtype = ops::autocast_dtype(x);
  const Prepared& p = prepare(dtype);
  const bool merged = ops::merged_is_faster(
      {.sizes = structure_.sizes,
       .tokens = x.numel() / structure_.d_in,
       .dtype = dtype,
       .device = x.device().type()});
  if (!merged) {
    return ops::einsum_linear(x, p.core_a, p.core_b, ops::optional(p.bias));
  }
  if (!p.merged.defined()) {
    prepared_.merged = merge().to(dtype);
  }
  return torch::linear(x, p.merged, p.bias);
}

torch::Tensor EinsumLinear::merge() {
  if (structure_.dense) {
    return weight_;
  }
  return torch::einsum("agdfr,bgefr->defabg", {core_a(), core_b()})
      .reshape({structure_.d_out, structure_.d_in});
}

void set_inference(torch::nn::Module& network, bool on) {
  for (const auto& module : network.modules()) {
    if (auto* layer = dynamic_cast<EinsumLinear*>(module.get())) {
      layer->set_inference(on);
    }
  }
}

}  // namespace einforge::nn
