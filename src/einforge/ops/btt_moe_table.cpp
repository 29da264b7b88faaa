#include "einforge/ops/btt_moe_table.h"

#include <fmt/format.h>

#include "einforge/ops/btt_moe_linear.h"
#include "einforge/ops/kernel_choice.h"
#include "einforge/ops/operands.h"
#include "einforge/ops/size_text.h"

namespace einforge::ops {
namespace {

using torch::Tensor;

constexpr std::string_view kOp = "btt_moe_linear";

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
  check_x(kOp, x, sizes.d_in());
  check_dtype_and_device(kOp, "core_a", core_a, x.scalar_type(), x);
  check_dtype_and_device(kOp, "core_b", core_b, x.scalar_type(), x);
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
      size_text(experts.sizes()));
  TORCH_CHECK(
      gates.sizes() == experts.sizes(),
      "[btt_moe_linear] expected gates of the size of experts, ",
      size_text(experts.sizes()),
      "; got ",
      size_text(gates.sizes()));
  TORCH_CHECK(
      experts.scalar_type() == torch::kInt32 ||
          experts.scalar_type() == torch::kInt64,
      "[btt_moe_linear] expected experts int32 or int64; got ",
      experts.scalar_type());
  check_dtype_and_device(kOp, "experts", experts, experts.scalar_type(), x);
  check_dtype_and_device(
      kOp,
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

const BttMoeKernel& choose(
    std::span<const BttMoeKernel> table, const BttMoeProblem& problem) {
  return choose_row(kOp, table, problem);
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
  check_grad(kOp, grad, x, d_out);
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
