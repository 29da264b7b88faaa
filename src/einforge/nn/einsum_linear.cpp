#include "einforge/nn/einsum_linear.h"

#include <torch/types.h>

#include <optional>
#include <vector>

#include "einforge/ops/einsum_linear.h"
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

std::optional<torch::Tensor> optional(const torch::Tensor& tensor) {
  return tensor.defined() ? std::make_optional(tensor) : std::nullopt;
}

}  // namespace

EinsumLinear::EinsumLinear(
    const structure::Structure& structure,
    const EinsumLinearOptions& options,
    const at::Generator& generator)
    : structure_(structure) {
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
    if (options.gamma) {
      gamma_a_ = add_parameter("gamma_a", torch::ones({}));
      gamma_b_ = add_parameter("gamma_b", torch::ones({}));
    }
  }
  if (options.bias) {
    bias_ = add_parameter("bias", torch::zeros({structure.d_out}));
  }
}

torch::Tensor EinsumLinear::core_a() const {
  return ops::rms_cap(core_a_, optional(gamma_a_), max_rms_a_);
}

torch::Tensor EinsumLinear::core_b() const {
  return ops::rms_cap(core_b_, optional(gamma_b_), max_rms_b_);
}

torch::Tensor EinsumLinear::forward(const torch::Tensor& x) {
  if (structure_.dense) {
    return torch::linear(x, weight_, bias_);
  }
  return ops::einsum_linear(x, core_a(), core_b(), optional(bias_));
}

torch::Tensor EinsumLinear::merge() {
  if (structure_.dense) {
    return weight_;
  }
  return torch::einsum("agdfr,bgefr->defabg", {core_a(), core_b()})
      .reshape({structure_.d_out, structure_.d_in});
}

}  // namespace einforge::nn
