#include "einforge/ops/kernel_table.h"

#include <fmt/format.h>

#include <vector>

#include "einforge/ops/einsum_linear.h"
#include "einforge/ops/kernel_choice.h"

namespace einforge::ops {
namespace {

using torch::Tensor;

bool is_floating(torch::ScalarType dtype) {
  return dtype == torch::kFloat32 || dtype == torch::kFloat64 ||
         dtype == torch::kBFloat16 || dtype == torch::kFloat16;
}

// Shapes, dtypes and devices of the operands that both passes have.
structure::Sizes check_operands(
    const Tensor& x, const Tensor& core_a, const Tensor& core_b) {
  const structure::Sizes sizes = core_sizes(core_a, core_b);
  TORCH_CHECK(
      x.dim() >= 1 && x.size(-1) == sizes.d_in(),
      "[einsum_linear] expected x of size (..., ",
      sizes.d_in(),
      "); got ",
      x.sizes());
  TORCH_CHECK(
      is_floating(x.scalar_type()),
      "[einsum_linear] expected x of a floating-point dtype; got ",
      x.scalar_type());
  for (const Tensor* core : {&core_a, &core_b}) {
    TORCH_CHECK(
        core->scalar_type() == x.scalar_type(),
        "[einsum_linear] expected cores of x's dtype ",
        x.scalar_type(),
        "; got ",
        core->scalar_type());
    TORCH_CHECK(
        core->device() == x.device(),
        "[einsum_linear] expected cores on x's device ",
        x.device(),
        "; got ",
        core->device());
  }
  return sizes;
}

void check_like_x(const char* name, const Tensor& tensor, const Tensor& x) {
  TORCH_CHECK(
      tensor.scalar_type() == x.scalar_type() && tensor.device() == x.device(),
      "[einsum_linear] expected ",
      name,
      " of x's dtype ",
      x.scalar_type(),
      " on ",
      x.device(),
      "; got ",
      tensor.scalar_type(),
      " on ",
      tensor.device());
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

std::vector<std::int64_t> with_last(c10::IntArrayRef sizes, std::int64_t last) {
  std::vector<std::int64_t> result = sizes.vec();
  result.back() = last;
  return result;
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
  return choose_row("einsum_linear", table, problem);
}

Tensor run_forward(
    std::span<const EinsumLinearKernel> table,
    const Tensor& x,
    const Tensor& core_a,
    const Tensor& core_b,
    const std::optional<Tensor>& bias) {
  const structure::Sizes sizes = check_operands(x, core_a, core_b);
  if (bias) {
    TORCH_CHECK(
        bias->dim() == 1 && bias->size(0) == sizes.d_out(),
        "[einsum_linear] expected bias of size (",
        sizes.d_out(),
        "); got ",
        bias->sizes());
    check_like_x("bias", *bias, x);
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
  TORCH_CHECK(
      grad.sizes() == with_last(x.sizes(), sizes.d_out()),
      "[einsum_linear_backward] expected grad of size ",
      c10::IntArrayRef(with_last(x.sizes(), sizes.d_out())),
      "; got ",
      grad.sizes());
  check_like_x("grad", grad, x);
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
