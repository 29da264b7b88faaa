#include "einforge/ops/btt_moe_linear.h"

#include <torch/library.h>

#include <array>

#include "einforge/ops/btt_moe_table.h"
#include "einforge/ops/cpu/einsum_linear_tiled.h"
#include "einforge/ops/moe_low_rank.h"
#include "einforge/ops/moe_routing.h"
#include "einforge/ops/reference/btt_moe_linear.h"
#include "einforge/ops/reference/einsum_linear.h"

namespace einforge::ops {
namespace {

using torch::Tensor;

// Calls work(expert, tokens, gates) for each expert that has tokens: their
// numbers (n) and gates (n, 1). Experts come in order, so that whatever adds
// up does so the same way each time.
template <typename Work>
void for_each_expert(
    const BttMoeProblem& problem, const BttMoeOperands& operands, Work work) {
  const MoeDispatch dispatch = moe_dispatch(operands.experts, problem.experts);
  const std::int32_t* offsets = dispatch.offsets.const_data_ptr<std::int32_t>();
  const Tensor tokens = dispatch.order.floor_divide(problem.active);
  const Tensor gates =
      operands.gates.view({-1, 1}).index_select(0, dispatch.order);
  for (std::int64_t e = 0; e < problem.experts; ++e) {
    const std::int64_t begin = offsets[e];
    const std::int64_t size = offsets[e + 1] - begin;
    if (size > 0) {
      work(
          e,
          dispatch.order.narrow(0, begin, size),
          tokens.narrow(0, begin, size),
          gates.narrow(0, begin, size));
    }
  }
}

EinsumLinearProblem with_tokens(
    const EinsumLinearProblem& problem, std::int64_t tokens) {
  EinsumLinearProblem result = problem;
  result.tokens = tokens;
  return result;
}

// "per_expert": one expert after the other, each by the kernel "bmm" of
// einsum_linear for the tokens that took it.
struct PerExpert {
  static bool supports(const BttMoeProblem& problem) {
    return bmm_kernel().supports(problem.expert);
  }

  static Tensor forward(
      const BttMoeProblem& problem, const BttMoeOperands& operands) {
    const EinsumLinearKernel kernel = bmm_kernel();
    Tensor y = torch::zeros(
        {problem.expert.tokens, problem.expert.sizes.d_out()},
        operands.gates.options());
    for_each_expert(
        problem,
        operands,
        [&](std::int64_t e,
            const Tensor& /*pairs*/,
            const Tensor& tokens,
            const Tensor& gates) {
          const Tensor rows = kernel.forward(
              with_tokens(problem.expert, tokens.size(0)),
              operands.x.index_select(0, tokens),
              operands.core_a.select(0, e),
              operands.core_b.select(0, e),
              std::nullopt);
          y.index_add_(0, tokens, rows * gates);
        });
    return y.to(operands.x.scalar_type());
  }

  // As in reference/btt_moe_linear.cpp: the kernel sees x scaled by the gates,
  // so that its dx is M^T dy, from which both dx and the gates' gradients come.
  static BttMoeGradients backward(
      const BttMoeProblem& problem,
      const Tensor& grad,
      const BttMoeOperands& operands,
      const GradientMask& mask) {
    const EinsumLinearKernel kernel = bmm_kernel();
    const Tensor& x = operands.x;
    BttMoeGradients result;
    if (mask[0]) {
      result.x = torch::zeros(x.sizes(), operands.gates.options());
    }
    if (mask[1]) {
      result.core_a = torch::zeros_like(operands.core_a);
    }
    if (mask[2]) {
      result.core_b = torch::zeros_like(operands.core_b);
    }
    if (mask[3]) {
      result.gates = torch::empty_like(operands.gates);
    }
    for_each_expert(
        problem,
        operands,
        [&](std::int64_t e,
            const Tensor& pairs,
            const Tensor& tokens,
            const Tensor& gates) {
          const Tensor rows = x.index_select(0, tokens);
          const EinsumLinearGradients grads = kernel.backward(
              with_tokens(problem.expert, tokens.size(0)),
              grad.index_select(0, tokens),
              (rows * gates).to(x.scalar_type()),
              operands.core_a.select(0, e),
              operands.core_b.select(0, e),
              {mask[0] || mask[3], mask[1], mask[2], false});
          if (mask[0]) {
            result.x.index_add_(0, tokens, grads.x * gates);
          }
          if (mask[1]) {
            result.core_a.select(0, e).copy_(grads.core_a);
          }
          if (mask[2]) {
            result.core_b.select(0, e).copy_(grads.core_b);
          }
          if (mask[3]) {
            result.gates.view({-1}).index_copy_(
                0,
                pairs.to(torch::kInt64),
                (grads.x.to(gates.scalar_type()) * rows).sum(1));
          }
        });
    if (mask[0]) {
      result.x = result.x.to(x.scalar_type());
    }
    return result;
  }
};

}  // namespace

std::span<const BttMoeKernel> cpu_moe_kernels() {
  static const std::array table{
      cpu_tiled_moe_kernel(),
      BttMoeKernel{
          "per_expert",
          PerExpert::supports,
          PerExpert::forward,
          PerExpert::backward},
      moe_low_rank_kernel(),
      moe_bmm_kernel()};
  return table;
}

namespace {

Tensor forward(
    const Tensor& x,
    const Tensor& core_a,
    const Tensor& core_b,
    const Tensor& experts,
    const Tensor& gates) {
  return run_moe_forward(cpu_moe_kernels(), x, core_a, core_b, experts, gates);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward(
    const Tensor& grad,
    const Tensor& x,
    const Tensor& core_a,
    const Tensor& core_b,
    const Tensor& experts,
    const Tensor& gates,
    std::array<bool, 4> output_mask) {
  return run_moe_backward(
      cpu_moe_kernels(), grad, x, core_a, core_b, experts, gates, output_mask);
}

}  // namespace

TORCH_LIBRARY_IMPL(einforge, CPU, m) {
  m.impl("btt_moe_linear", TORCH_FN(forward));
  m.impl("btt_moe_linear_backward", TORCH_FN(backward));
}

}  // namespace einforge::ops
