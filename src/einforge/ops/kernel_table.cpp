#include "einforge/ops/kernel_table.h"

#include <fmt/format.h>

#include "einforge/ops/einsum_linear.h"
#include "einforge/ops/kernel_choice.h"
#include "einforge/ops/operands.h"

namespace einforge::ops {
namespace {

using torch::Tensor;

constexpr std::string_view kOp = "einsum_linear";

// Shapes, dtypes and devices of the operands that both passes have.
structure::Sizes check_operands(
    const Tensor& x, const Tensor& core_a, const Tensor& core_b) {
  const structure::Sizes sizes = core_sizes(core_a, core_b);
  check_x(kOp, x, sizes.d_in());
  for (const Tensor* core : {&core_a, &core_b}) {
    check_dtype_and_device(
        kOp, "cores of x's dtype", *core, x.scalar_type(), x);
  }
  return sizes;
}

EinsumLinearProblem problem_of(
    const structure::Sizes& sizes, const Tensor& x, Pass pass) {
  return {
      .sizes = sizes,
      .tokens = x.numel() / sizes.d_in(),
      .dtype = x.scalar_type(),
      .device = x.device().type(),
      .pass = pass};
}

}  // namespace

std::string EinsumLinearProblem::to_string() const {
  return fmt::format(
      "{} {} {} {} x ({},{},{} -> {},{},{}; {})",
      c10::DeviceTypeName(device, /*lower_case=*/true),
      c10::toString(dtype),
      pass == Pass::kForward ? "forward" : "backward",
      tokens,
      sizes.alpha,
      sizes.beta,
      sizes.gamma,
      sizes.delta,
      sizes.epsilon,
      sizes.phi,
      sizes.rho);
}

const EinsumLinearKernel& choose(
    std::span<const EinsumLinearKernel> table,
    const EinsumLinearProblem& problem) {
  return choose_row(kOp, table, problem);
}

Tensor run_forward(
    std::span<const EinsumLinearKernel> table,
    const Tensor& x,
    const Tensor& core_a,
    const Tensor& core_b,
    const std::optional<Tensor>& bias) {
  const structure::Sizes sizes = check_operands(x, core_a, core_b);
  if (bias) {
    check_bias(kOp, "bias", *bias, sizes.d_out());
    check_dtype_and_device(kOp, "bias of x's dtype", *bias, x.scalar_type(), x);
  }
  const auto y_sizes = with_last(x.sizes(), sizes.d_out());
  if (x.numel() == 0) {
    return x.new_empty(y_sizes);
  }
  const EinsumLinearProblem problem = problem_of(sizes, x, Pass::kForward);
  return choose(table, problem)
      .forward(
          problem,
          x.reshape({problem.tokens, sizes.d_in()}).contiguous(),
          core_a,
          core_b,
          bias)
      .view(y_sizes);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> run_backward(
    std::span<const EinsumLinearKernel> table,
    const Tensor& grad,
    const Tensor& x,
    const Tensor& core_a,
    const Tensor& core_b,
    const GradientMask& mask) {
  const structure::Sizes sizes = check_operands(x, core_a, core_b);
  check_grad(kOp, grad, x, sizes.d_out());
  EinsumLinearGradients result;
  if (x.numel() == 0) {
    result = {
        torch::zeros_like(x),
        torch::zeros_like(core_a),
        torch::zeros_like(core_b),
        x.new_zeros({sizes.d_out()})};
  } else {
    const EinsumLinearProblem problem = problem_of(sizes, x, Pass::kBackward);
    result = choose(table, problem)
                 .backward(
                     problem,
                     grad.reshape({problem.tokens, sizes.d_out()}).contiguous(),
                     x.reshape({problem.tokens, sizes.d_in()}).contiguous(),
                     core_a,
                     core_b,
                     mask);
    if (mask[0]) {
      result.x = result.x.view(x.sizes());
    }
  }
  // The strides of a gradient are its operand's, which is what the meta
  // implementation promises; no copy for cores in the operator's own layout.
  const auto match = [](bool is_asked, Tensor& grad_core, const Tensor& core) {
    if (is_asked && grad_core.strides() != core.strides()) {
      grad_core = torch::empty_like(core).copy_(grad_core);
    }
  };
  match(mask[1], result.core_a, core_a);
  match(mask[2], result.core_b, core_b);
  // An operator cannot return an undefined tensor everywhere it is traced.
  const auto asked = [&](bool is_asked, const Tensor& tensor) {
    return is_asked ? tensor : x.new_empty({0});
  };
  return {
      asked(mask[0], result.x),
      asked(mask[1], result.core_a),
      asked(mask[2], result.core_b),
      asked(mask[3], result.bias)};
}

}  // namespace einforge::ops
