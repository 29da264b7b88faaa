#include <ATen/Parallel.h>

#include <algorithm>

#include "einforge/kernels/cpu/moe_rows.h"
#include "einforge/ops/cpu/einsum_linear_tiled.h"
#include "einforge/ops/moe_routing.h"

#ifndef INTRA_OP_PARALLEL
#error "without OpenMP at::parallel_for would run on one thread"
#endif

namespace einforge::ops {
namespace {

namespace cpu = kernels::cpu;
using torch::Tensor;

// The pairs of a token and one of its experts, by expert.
struct Pairs {
  MoeDispatch dispatch;
  Tensor tokens;  // (T k) int32, that of each pair
  const std::int32_t* offsets;

  Pairs(const BttMoeProblem& problem, const BttMoeOperands& operands)
      : dispatch(moe_dispatch(operands.experts, problem.experts)),
        tokens(dispatch.order.floor_divide(problem.active)),
        offsets(dispatch.offsets.const_data_ptr<std::int32_t>()) {}

  // Calls work(expert, its problem, its tokens and pairs, the first pair).
  template <typename Work>
  void for_each_expert(const BttMoeProblem& problem, const Work& work) const {
    EinsumLinearProblem expert = problem.expert;
    for (std::int64_t e = 0; e < problem.experts; ++e) {
      const std::int64_t begin = offsets[e];
      expert.tokens = offsets[e + 1] - begin;
      if (expert.tokens > 0) {
        work(
            e,
            expert,
            cpu::EinsumRows{
                .in = tokens.const_data_ptr<std::int32_t>() + begin,
                .out = dispatch.order.const_data_ptr<std::int32_t>() + begin},
            begin);
      }
    }
  }
};

// Calls work(begin, count) for ranges of the tokens.
template <typename Work>
void for_each_range(
    std::int64_t tokens, std::int64_t features, const Work& work) {
  constexpr std::int64_t kGrain = 1 << 15;  // elements that are worth a thread
  at::parallel_for(
      0,
      tokens,
      std::max<std::int64_t>(1, kGrain / features),
      [&](std::int64_t begin, std::int64_t end) { work(begin, end - begin); });
}

// (T, d) from the rows of the pairs, (T k, d).
Tensor combine(const Tensor& rows, const Tensor& gates) {
  const std::int64_t active = gates.size(1);
  const std::int64_t features = rows.size(1);
  const Tensor y = rows.new_empty({gates.size(0), features});
  const float* from = rows.const_data_ptr<float>();
  const float* weights = gates.const_data_ptr<float>();
  float* to = y.mutable_data_ptr<float>();
  for_each_range(
      gates.size(0),
      active * features,
      [&](std::int64_t begin, std::int64_t count) {
        cpu::moe_combine(
            from + begin * active * features,
            weights + begin * active,
            count,
            active,
            features,
            to + begin * features);
      });
  return y;
}

Tensor gate_gradient(const Tensor& rows, const Tensor& x, const Tensor& gates) {
  const std::int64_t active = gates.size(1);
  const std::int64_t features = rows.size(1);
  const Tensor grad = torch::empty_like(gates);
  const float* from = rows.const_data_ptr<float>();
  const float* token = x.const_data_ptr<float>();
  float* to = grad.mutable_data_ptr<float>();
  for_each_range(
      gates.size(0),
      active * features,
      [&](std::int64_t begin, std::int64_t count) {
        cpu::moe_gate_gradient(
            from + begin * active * features,
            token + begin * features,
            count,
            active,
            features,
            to + begin * active);
      });
  return grad;
}

// Two bytes become four on the way in, and are rounded once on the way out.
BttMoeOperands wide(const BttMoeOperands& operands) {
  BttMoeOperands result = operands;
  for (Tensor* operand : {&result.x, &result.core_a, &result.core_b}) {
    *operand = operand->to(torch::kFloat32);
  }
  return result;
}

bool supports(const BttMoeProblem& problem) {
  return cpu_tiled_kernel().supports(problem.expert);
}

bool preferred(const BttMoeProblem& problem) {
  return cpu_tiled_kernel().preferred(problem.mean_expert());
}

Tensor forward(const BttMoeProblem& problem, const BttMoeOperands& given) {
  const BttMoeOperands operands = wide(given);
  const Pairs pairs(problem, operands);
  const Tensor rows = operands.x.new_empty(
      {pairs.tokens.numel(), problem.expert.sizes.d_out()});
  pairs.for_each_expert(
      problem,
      [&](std::int64_t e,
          const EinsumLinearProblem& expert,
          const cpu::EinsumRows& its,
          std::int64_t /*begin*/) {
        tiled::forward(
            expert,
            operands.x,
            operands.core_a.select(0, e),
            operands.core_b.select(0, e),
            std::nullopt,
            its,
            rows);
      });
  return combine(rows, operands.gates).to(problem.expert.dtype);
}

// As in reference/btt_moe_linear.cpp: the gradients of the cores are of x
// scaled by the gates, and that of x is M^T dy, from which both dx and the
// gates' gradients come.
BttMoeGradients backward(
    const BttMoeProblem& problem,
    const Tensor& given_grad,
    const BttMoeOperands& given,
    const GradientMask& mask) {
  const BttMoeOperands operands = wide(given);
  const Tensor grad = given_grad.to(torch::kFloat32);
  const Pairs pairs(problem, operands);
  const Tensor gates =
      operands.gates.view({-1}).index_select(0, pairs.dispatch.order);
  const bool needs_rows = mask[0] || mask[3];
  const Tensor rows =
      needs_rows
          ? operands.x.new_empty({pairs.tokens.numel(), operands.x.size(1)})
          : Tensor();
  BttMoeGradients result;
  if (mask[1]) {
    result.core_a = torch::zeros_like(operands.core_a);
  }
  if (mask[2]) {
    result.core_b = torch::zeros_like(operands.core_b);
  }
  pairs.for_each_expert(
      problem,
      [&](std::int64_t e,
          const EinsumLinearProblem& expert,
          const cpu::EinsumRows& its,
          std::int64_t begin) {
        const EinsumLinearGradients grads = tiled::backward(
            expert,
            grad,
            operands.x,
            operands.core_a.select(0, e),
            operands.core_b.select(0, e),
            {needs_rows, mask[1], mask[2], false},
            its,
            gates.const_data_ptr<float>() + begin,
            rows);
        if (mask[1]) {
          result.core_a.select(0, e).copy_(grads.core_a);
        }
        if (mask[2]) {
          result.core_b.select(0, e).copy_(grads.core_b);
        }
      });
  if (mask[0]) {
    result.x = combine(rows, operands.gates);
  }
  if (mask[3]) {
    result.gates = gate_gradient(rows, operands.x, operands.gates);
  }
  for (Tensor* gradient : {&result.x, &result.core_a, &result.core_b}) {
    if (gradient->defined()) {
      *gradient = gradient->to(problem.expert.dtype);
    }
  }
  return result;
}

}  // namespace

BttMoeKernel cpu_tiled_moe_kernel() {
  return {"cpu_tiled", supports, forward, backward, preferred};
}

}  // namespace einforge::ops
