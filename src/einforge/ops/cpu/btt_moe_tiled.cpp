#include <utility>
#include <vector>

#include "einforge/ops/cpu/einsum_linear_tiled.h"
#include "einforge/ops/moe_routing.h"

namespace einforge::ops {
namespace {

namespace cpu = kernels::cpu;
using torch::Tensor;

// The pairs of a token and one of its experts, by expert: what the kernel has
// to know of each.
class Pairs {
 public:
  Pairs(const BttMoeProblem& problem, const BttMoeOperands& operands)
      : problem_(problem),
        dispatch_(moe_dispatch(operands.experts, problem.experts)),
        gates_(operands.gates.view({-1}).index_select(0, dispatch_.order)),
        tokens_(static_cast<std::size_t>(gates_.numel())),
        adds_(tokens_.size()) {
    const std::int32_t* order = dispatch_.order.const_data_ptr<std::int32_t>();
    const auto active = static_cast<std::int32_t>(problem.active);
    std::vector<std::uint8_t> seen(
        static_cast<std::size_t>(problem.expert.tokens));
    const std::int32_t* offsets =
        dispatch_.offsets.const_data_ptr<std::int32_t>();
    for (std::int64_t e = 0; e < problem.experts; ++e) {
      for (std::int32_t i = offsets[e]; i < offsets[e + 1]; ++i) {
        const auto at = static_cast<std::size_t>(i);
        const std::int32_t token = order[i] / active;
        // An expert's tokens are in order. Twice the same would be added to one
        // row at once.
        TORCH_CHECK(
            i == offsets[e] || token != tokens_[at - 1],
            "[btt_moe_linear] expected each token's experts to be distinct; "
            "got expert ",
            e,
            " twice for token ",
            token);
        tokens_[at] = token;
        adds_[at] = std::exchange(seen[static_cast<std::size_t>(token)], 1);
      }
    }
  }

  const Tensor& order() const { return dispatch_.order; }

  // Calls work(expert, its problem, its rows, the first pair) for one after the
  // other, so that the rows of a token are added up in that order.
  template <typename Work>
  void for_each_expert(const Work& work) const {
    const std::int32_t* offsets =
        dispatch_.offsets.const_data_ptr<std::int32_t>();
    EinsumLinearProblem expert = problem_.expert;
    for (std::int64_t e = 0; e < problem_.experts; ++e) {
      const std::int64_t begin = offsets[e];
      expert.tokens = offsets[e + 1] - begin;
      if (expert.tokens > 0) {
        work(
            e,
            expert,
            cpu::EinsumRows{
                .numbers = tokens_.data() + begin,
                .scale = gates_.const_data_ptr<float>() + begin,
                .adds = adds_.data() + begin},
            begin);
      }
    }
  }

 private:
  const BttMoeProblem& problem_;
  MoeDispatch dispatch_;
  Tensor gates_;  // (T k), as the vectors
  std::vector<std::int32_t> tokens_;
  std::vector<std::uint8_t> adds_;  // an expert before has the token, too
};

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
  const Tensor y = operands.x.new_empty(
      {problem.expert.tokens, problem.expert.sizes.d_out()});
  pairs.for_each_expert([&](std::int64_t e,
                            const EinsumLinearProblem& expert,
                            const cpu::EinsumRows& rows,
                            std::int64_t /*begin*/) {
    tiled::forward(
        expert,
        operands.x,
        operands.core_a.select(0, e),
        operands.core_b.select(0, e),
        std::nullopt,
        rows,
        y);
  });
  return y.to(problem.expert.dtype);
}

BttMoeGradients backward(
    const BttMoeProblem& problem,
    const Tensor& given_grad,
    const BttMoeOperands& given,
    const GradientMask& mask) {
  const BttMoeOperands operands = wide(given);
  const Tensor grad = given_grad.to(torch::kFloat32);
  const Pairs pairs(problem, operands);
  BttMoeGradients result;
  if (mask[0]) {
    result.x = torch::empty_like(operands.x);
  }
  if (mask[1]) {
    result.core_a = torch::zeros_like(operands.core_a);
  }
  if (mask[2]) {
    result.core_b = torch::zeros_like(operands.core_b);
  }
  const Tensor grad_gates =
      mask[3] ? operands.gates.new_empty({pairs.order().size(0)}) : Tensor();
  pairs.for_each_expert([&](std::int64_t e,
                            const EinsumLinearProblem& expert,
                            const cpu::EinsumRows& rows,
                            std::int64_t begin) {
    const EinsumLinearGradients grads = tiled::backward(
        expert,
        grad,
        operands.x,
        operands.core_a.select(0, e),
        operands.core_b.select(0, e),
        {mask[0], mask[1], mask[2], false},
        rows,
        result.x,
        mask[3] ? grad_gates.mutable_data_ptr<float>() + begin : nullptr);
    if (mask[1]) {
      result.core_a.select(0, e).copy_(grads.core_a);
    }
    if (mask[2]) {
      result.core_b.select(0, e).copy_(grads.core_b);
    }
  });
  if (mask[3]) {
    result.gates = torch::empty_like(operands.gates);
    result.gates.view({-1}).index_copy_(
        0, pairs.order().to(torch::kInt64), grad_gates);
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
