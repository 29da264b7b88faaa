#include "einforge/ops/btt_moe_table.h"

#include <fmt/format.h>

#include <vector>

#include "einforge/ops/btt_moe_linear.h"
#include "einforge/ops/kernel_choice.h"

namespace einforge::ops {
namespace {

using torch::Tensor;

void check_dtype_and_device(
    const char* name,
    const Tensor& tensor,
    torch::ScalarType dtype,
    const Tensor& x) {
  TORCH_CHECK(
      tensor.scalar_type() == dtype && tensor.device() == x.device(),
      "[btt_moe_linear] expected ",
      name,
      " ",
      dtype,
      " on ",
      x.device(),
      "; got ",
      tensor.scalar_type(),
      " on ",
      tensor.device());
}

// A call's operands, checked and in the form that kernels take.
struct Call {
  BttMoeProblem problem;
  BttMoeOperands operands;
};

Call check(
    const Tensor& x,
    const Tensor& core_a,
    const Tensor& core_b,
    const Tensor& experts,
    const Tensor& gates,
    Pass pass) {
  const structure::Sizes sizes = expert_sizes(core_a, core_b);
  TORCH_CHECK(
      x.dim() >= 1 && x.size(-1) == sizes.d_in(),
      "[btt_moe_linear] expected x of size (..., ",
      sizes.d_in(),
      "); got ",
      x.sizes());
  TORCH_CHECK(
      x.is_floating_point(),
      "[btt_moe_linear] expected x of a floating-point dtype; got ",
      x.scalar_type());
  check_dtype_and_device("core_a", core_a, x.scalar_type(), x);
  check_dtype_and_device("core_b", core_b, x.scalar_type(), x);
  const std::int64_t tokens = x.numel() / sizes.d_in();
  const std::int64_t count = core_a.size(0);
  TORCH_CHECK(
      experts.dim() == 2 && experts.size(0) == tokens && experts.size(1) >= 1 &&
          experts.size(1) <= count,
      "[btt_moe_linear] expected experts of size (",
      tokens,
      ", 1 to ",
      count,
      "); got ",
      experts.sizes());
  TORCH_CHECK(
      gates.sizes() == experts.sizes(),
      "[btt_moe_linear] expected gates of the size of experts, ",
      experts.sizes(),
      "; got ",
      gates.sizes());
  TORCH_CHECK(
      experts.scalar_type() == torch::kInt32 ||
          experts.scalar_type() == torch::kInt64,
      "[btt_moe_linear] expected experts int32 or int64; got ",
      experts.scalar_type());
  check_dtype_and_device("experts", experts, experts.scalar_type(), x);
  check_dtype_and_device(
      "gates",
      gates,
      x.scalar_type() == torch::kFloat64 ? torch::kFloat64 : torch::kFloat32,
      x);
  return {
      .problem =
          {.expert =
               {.sizes = sizes,
                .tokens = tokens,
                .dtype = x.scalar_type(),
                .device = x.device().type(),
                .pass = pass},
           .experts = count,
           .active = experts.size(1)},
      .operands = {
          .x = x.reshape({tokens, sizes.d_in()}).contiguous(),
          .core_a = core_a,
          .core_b = core_b,
          .experts = experts.to(torch::kInt32).contiguous(),
          .gates = gates.contiguous()}};
}

std::vector<std::int64_t> with_last(c10::IntArrayRef sizes, std::int64_t last) {
  std::vector<std::int64_t> result = sizes.vec();
  result.back() = last;
  return result;
}

const BttMoeKernel& choose(
    std::span<const BttMoeKernel> table, const BttMoeProblem& problem) {
  return choose_row("btt_moe_linear", table, problem);
}

}  // namespace

EinsumLinearProblem BttMoeProblem::mean_expert() const {
  EinsumLinearProblem mean = expert;
  mean.tokens = (expert.tokens * active + experts - 1) / experts;
  return mean;
}

std::string BttMoeProblem::to_string() const {
  return fmt::format(
      "{}, {} of {} experts", expert.to_string(), active, experts);
}

Tensor run_moe_forward(
    std::span<const BttMoeKernel> table,
    const Tensor& x,
    const Tensor& core_a,
    const Tensor& core_b,
    const Tensor& experts,
    const Tensor& gates) {
  const auto [problem, operands] =
      check(x, core_a, core_b, experts, gates, Pass::kForward);
  const auto y_sizes = with_last(x.sizes(), problem.expert.sizes.d_out());
  if (problem.expert.tokens == 0) {
    return x.new_empty(y_sizes);
  }
  return choose(table, problem).forward(problem, operands).view(y_sizes);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> run_moe_backward(
    std::span<const BttMoeKernel> table,
    const Tensor& grad,
    const Tensor& x,
    const Tensor& core_a,
    const Tensor& core_b,
    const Tensor& experts,
    const Tensor& gates,
    const GradientMask& mask) {
  const auto [problem, operands] =
      check(x, core_a, core_b, experts, gates, Pass::kBackward);
  const std::int64_t d_out = problem.expert.sizes.d_out();
  TORCH_CHECK(
      grad.sizes() == with_last(x.sizes(), d_out),
      "[btt_moe_linear_backward] expected grad of size ",
      c10::IntArrayRef(with_last(x.sizes(), d_out)),
      "; got ",
      grad.sizes());
  check_dtype_and_device("grad", grad, x.scalar_type(), x);
  BttMoeGradients result;
  if (problem.expert.tokens == 0) {
    result = {
        torch::zeros_like(x),
        torch::zeros_like(core_a),
        torch::zeros_like(core_b),
        torch::zeros_like(gates)};
  } else {
    result = choose(table, problem)
                 .backward(
                     problem,
                     grad.reshape({problem.expert.tokens, d_out}).contiguous(),
                     operands,
                     mask);
  }
  // The strides of a gradient are its operand's, as meta promises; an operator
  // cannot return an undefined tensor everywhere it is traced.
  const auto finish =
      [&](bool asked, const Tensor& tensor, const Tensor& operand) {
        if (!asked) {
          return x.new_empty({0});
        }
        return tensor.strides() == operand.strides()
                   ? tensor
                   : torch::empty_like(operand).copy_(tensor);
      };
  return {
      mask[0] ? result.x.view(x.sizes()) : x.new_empty({0}),
      finish(mask[1], result.core_a, core_a),
      finish(mask[2], result.core_b, core_b),
      mask[3] ? result.gates : gates.new_empty({0})};
}

}  // namespace einforge::ops
