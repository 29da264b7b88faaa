#include "einforge/ops/einsum_linear.h"

#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <optional>

#include "einforge/ops/kernel_choice.h"

namespace einforge::ops {
namespace {

using torch::Tensor;
using torch::autograd::variable_list;

// The gradients through plain einsums, which autograd can differentiate again;
// slow, and only for those who ask for second derivatives.
variable_list differentiable_backward(
    const Tensor& grad,
    const Tensor& x,
    const Tensor& core_a,
    const Tensor& core_b,
    bool has_bias) {
  const structure::Sizes s = core_sizes(core_a, core_b);
  const Tensor dy = grad.reshape({-1, s.delta, s.epsilon, s.phi});
  const Tensor x4 = x.reshape({-1, s.alpha, s.beta, s.gamma});
  // t: tokens; the others as in the header.
  return {
      torch::einsum("tdef,agdfr,bgefr->tabg", {dy, core_a, core_b})
          .reshape(x.sizes()),
      torch::einsum("tdef,tabg,bgefr->agdfr", {dy, x4, core_b}),
      torch::einsum("tdef,tabg,agdfr->bgefr", {dy, x4, core_a}),
      has_bias ? grad.reshape({-1, s.d_out()}).sum(0) : Tensor()};
}

// Saves x and both cores; z, the intermediate, is computed again.
class EinsumLinear : public torch::autograd::Function<EinsumLinear> {
 public:
  static Tensor forward(
      torch::autograd::AutogradContext* context,
      const Tensor& x,
      const Tensor& core_a,
      const Tensor& core_b,
      const std::optional<Tensor>& bias) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    context->save_for_backward({x, core_a, core_b});
    context->saved_data["has_bias"] = bias.has_value();
    return einsum_linear(x, core_a, core_b, bias);
  }

  static variable_list backward(
      torch::autograd::AutogradContext* context, const variable_list& grads) {
    const variable_list saved = context->get_saved_variables();
    const bool has_bias = context->saved_data["has_bias"].toBool();
    if (!grads[0].defined()) {
      return variable_list(4);
    }
    if (torch::GradMode::is_enabled()) {
      return differentiable_backward(
          grads[0], saved[0], saved[1], saved[2], has_bias);
    }
    const std::array<bool, 4> mask{
        context->needs_input_grad(0),
        context->needs_input_grad(1),
        context->needs_input_grad(2),
        has_bias && context->needs_input_grad(3)};
    auto [x, core_a, core_b, bias] =
        einsum_linear_backward(grads[0], saved[0], saved[1], saved[2], mask);
    return {
        mask[0] ? x : Tensor(),
        mask[1] ? core_a : Tensor(),
        mask[2] ? core_b : Tensor(),
        mask[3] ? bias : Tensor()};
  }
};

// A layer whose cores are plain matrices: of low rank.
struct LowRank {
  Tensor first;   // (d_in, rho)
  Tensor second;  // (d_out, rho)
};

// None where the layer is no such one, and for operands that do not fit: of
// those the operator says what is wrong.
std::optional<LowRank> low_rank(
    const Tensor& x,
    const Tensor& core_a,
    const Tensor& core_b,
    const std::optional<Tensor>& bias) {
  const auto is_like_x = [&](const Tensor& tensor) {
    return tensor.scalar_type() == x.scalar_type() &&
           tensor.device() == x.device();
  };
  if (x.dim() < 1 || core_a.dim() != 5 || core_b.dim() != 5 ||
      !x.is_floating_point() || !is_like_x(core_a) || !is_like_x(core_b) ||
      (bias && (bias->dim() != 1 || !is_like_x(*bias)))) {
    return std::nullopt;
  }
  // The core as (size of `in_or_out`, rho) where all other sizes are 1; by
  // squeeze, whose backward is a view too.
  const auto matrix = [](const Tensor& core, std::int64_t in_or_out) {
    const std::array<std::int64_t, 3> ones{1, 3, 2 - in_or_out};
    return std::all_of(
               ones.begin(),
               ones.end(),
               [&](std::int64_t dim) { return core.sym_size(dim) == 1; })
               ? core.squeeze(ones)
               : Tensor();
  };
  for (const bool ab : {true, false}) {
    const LowRank found{
        matrix(ab ? core_a : core_b, 0), matrix(ab ? core_b : core_a, 2)};
    if (found.first.defined() && found.second.defined() &&
        found.first.sym_size(0) == x.sym_size(-1) &&
        found.first.sym_size(1) == found.second.sym_size(1) &&
        (!bias || bias->sym_size(0) == found.second.sym_size(0))) {
      return found;
    }
  }
  return std::nullopt;
}

// Low rank is two linear layers, and torch differentiates those: keeping z,
// which is small, costs less than computing it again.
Tensor forward(
    const Tensor& x,
    const Tensor& core_a,
    const Tensor& core_b,
    const std::optional<Tensor>& bias) {
  if (forced_kernel().empty()) {
    if (const auto cores = low_rank(x, core_a, core_b, bias)) {
      internal::note_choice(
          "two_linears", [] { return "einsum_linear of low rank"; });
      return torch::linear(
          torch::linear(x, cores->first.t()),
          cores->second,
          bias.value_or(Tensor()));
    }
  }
  return EinsumLinear::apply(x, core_a, core_b, bias);
}

}  // namespace

TORCH_LIBRARY_IMPL(einforge, Autograd, m) {
  m.impl("einsum_linear", forward);
  m.impl(
      "einsum_linear_backward",
      torch::autograd::autogradNotImplementedFallback());
}

}  // namespace einforge::ops
