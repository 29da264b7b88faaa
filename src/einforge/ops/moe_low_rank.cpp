#include "einforge/ops/moe_low_rank.h"

#include <tuple>

#include "einforge/ops/contraction.h"
#include "einforge/ops/cuda/device.h"
#include "einforge/ops/moe_grouped.h"
#include "einforge/ops/moe_routing.h"

namespace einforge::ops {
namespace {

using torch::Tensor;

bool supports(const BttMoeProblem& problem) {
  const EinsumLinearProblem& expert = problem.expert;
  const Contraction c(expert.sizes);
  if (c.second_in != 1 || c.gamma != 1 || c.first_out != 1 || c.phi != 1) {
    return false;
  }
  return expert.device == torch::DeviceType::CPU ||
         (expert.dtype == torch::kBFloat16 && c.first_in % 8 == 0 &&
          c.rho % 8 == 0 && c.second_out % 8 == 0 &&
          // torch's grouped matmul has a kernel of its own there; elsewhere it
          // waits for the device.
          is_hopper());
}

// y = second first^T x for each expert, and what both passes need.
struct LowRank {
  Contraction c;
  Tensor first;   // (E, d_in, rho)
  Tensor second;  // (E, d_out, rho)
  MoeDispatch dispatch;
  Tensor x;  // (T k, d_in), by expert
  Tensor z;  // (T k, rho) = x first

  LowRank(const BttMoeProblem& problem, const BttMoeOperands& operands)
      : c(problem.expert.sizes),
        dispatch(moe_dispatch(operands.experts, problem.experts)),
        x(moe_gather(operands.x, dispatch)) {
    std::tie(first, second) =
        c.ordered(matrices(operands.core_a), matrices(operands.core_b));
    z = multiply(x, first.transpose(1, 2));
  }

  // Rows by matrices (E, d_out, d_in).
  Tensor multiply(const Tensor& rows, const Tensor& weight) const {
    return moe_grouped_linear(rows, weight, dispatch.offsets);
  }

 private:
  // (E, in, 1, out, 1, rho), in or out being 1.
  static Tensor matrices(const Tensor& core) {
    return core.reshape({core.size(0), -1, core.size(5)});
  }
};

Tensor forward(const BttMoeProblem& problem, const BttMoeOperands& operands) {
  const torch::NoGradGuard no_grad;
  const LowRank layer(problem, operands);
  return moe_combine(
      layer.multiply(layer.z, layer.second), layer.dispatch, operands.gates);
}

// As in reference/btt_moe_linear.cpp: dx is g M^T dy, dg is (M^T dy) . x. In
// the gradients of the matrices the gates scale the narrow factor.
BttMoeGradients backward(
    const BttMoeProblem& problem,
    const Tensor& grad,
    const BttMoeOperands& operands,
    const GradientMask& mask) {
  const torch::NoGradGuard no_grad;
  const LowRank layer(problem, operands);
  const MoeDispatch& dispatch = layer.dispatch;
  const Tensor gates =
      operands.gates.view({-1, 1}).index_select(0, dispatch.order);
  const auto scaled = [&](const Tensor& narrow) {
    return (narrow * gates).to(grad.scalar_type());
  };
  const Tensor dy = moe_gather(grad, dispatch);  // (T k, d_out)
  const Tensor dz =
      layer.multiply(dy, layer.second.transpose(1, 2));  // (T k, rho)
  const auto [first_asked, second_asked] = layer.c.ordered(mask[1], mask[2]);
  Tensor grad_first;
  Tensor grad_second;
  if (first_asked) {
    grad_first = moe_grouped_outer(layer.x, scaled(dz), dispatch.offsets);
  }
  if (second_asked) {
    grad_second = moe_grouped_outer(dy, scaled(layer.z), dispatch.offsets);
  }
  BttMoeGradients result;
  if (mask[0] || mask[3]) {
    const Tensor dx = layer.multiply(dz, layer.first);  // (T k, d_in)
    if (mask[0]) {
      result.x = moe_combine(dx, dispatch, operands.gates);
    }
    if (mask[3]) {
      result.gates = torch::empty_like(operands.gates);
      result.gates.view({-1}).index_copy_(
          0,
          dispatch.order.to(torch::kInt64),
          (dx.to(gates.scalar_type()) * layer.x).sum(1));
    }
  }
  const auto shaped = [](const Tensor& matrices, const Tensor& core) {
    return matrices.defined() ? matrices.view(core.sizes()) : matrices;
  };
  const auto [grad_a, grad_b] = layer.c.ordered(grad_first, grad_second);
  result.core_a = shaped(grad_a, operands.core_a);
  result.core_b = shaped(grad_b, operands.core_b);
  return result;
}

}  // namespace

BttMoeKernel moe_low_rank_kernel() {
  return {"grouped", supports, forward, backward};
}

}  // namespace einforge::ops
