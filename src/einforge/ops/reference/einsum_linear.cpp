#include "einforge/ops/reference/einsum_linear.h"

#include "einforge/ops/contraction.h"

namespace einforge::ops {
namespace {

using torch::Tensor;

// The input of the first product.
Tensor first_operand(const Contraction& c, const Tensor& x) {
  return c.split_input(x)
      .permute({3, 0, 2, 1})  // (gamma, tokens, second_in, first_in)
      .reshape({c.gamma, x.size(0) * c.second_in, c.first_in});
}

// The first product's result as the second's input.
Tensor second_operand(const Contraction& c, const Tensor& z) {
  const auto tokens = z.size(1) / c.second_in;
  return z.view({c.gamma, tokens, c.second_in, c.first_out, c.phi, c.rho})
      .permute({4, 1, 3, 2, 0, 5})  // (phi, tokens, u, s, gamma, rho)
      .reshape({c.phi, tokens * c.first_out, c.second_in * c.gamma * c.rho});
}

Tensor second_operand_backward(const Contraction& c, const Tensor& z) {
  const auto tokens = z.size(1) / c.first_out;
  return z.view({c.phi, tokens, c.first_out, c.second_in, c.gamma, c.rho})
      .permute({4, 1, 3, 2, 0, 5})  // (gamma, tokens, s, u, phi, rho)
      .reshape({c.gamma, tokens * c.second_in, c.first_out * c.phi * c.rho});
}

bool supports_bmm(const EinsumLinearProblem&) {
  return true;
}

Tensor forward(
    const EinsumLinearProblem& problem,
    const Tensor& x,
    const Tensor& core_a,
    const Tensor& core_b,
    const std::optional<Tensor>& bias) {
  const Contraction c(problem.sizes);
  const Tensor first = c.pack_first(c.ab() ? core_a : core_b);
  const Tensor second = c.pack_second(c.ab() ? core_b : core_a);
  const Tensor z = torch::bmm(first_operand(c, x), first);
  Tensor y = torch::bmm(second_operand(c, z), second);
  y = y.view({c.phi, x.size(0), c.first_out, c.second_out})
          .permute({1, 2, 3, 0});  // (tokens, first_out, second_out, phi)
  return bias ? c.join_output(y) + *bias : c.join_output(y);
}

EinsumLinearGradients backward(
    const EinsumLinearProblem& problem,
    const Tensor& grad,
    const Tensor& x,
    const Tensor& core_a,
    const Tensor& core_b,
    const GradientMask& mask) {
  const Contraction c(problem.sizes);
  const auto tokens = x.size(0);
  const bool first_asked = mask[c.ab() ? 1 : 2];
  const bool second_asked = mask[c.ab() ? 2 : 1];
  Tensor grad_first;
  Tensor grad_second;
  EinsumLinearGradients result;

  const Tensor first = c.pack_first(c.ab() ? core_a : core_b);
  const Tensor input = first_operand(c, x);  // (gamma, tokens s, i)
  const Tensor dy = c.split_output(grad)
                        .permute({3, 0, 1, 2})  // (phi, tokens, u, v)
                        .reshape({c.phi, tokens * c.first_out, c.second_out});
  if (second_asked) {
    const Tensor z = second_operand(c, torch::bmm(input, first));
    grad_second = c.unpack_second(torch::bmm(z.transpose(1, 2), dy));
  }
  if (mask[0] || first_asked) {
    const Tensor second = c.pack_second(c.ab() ? core_b : core_a);
    const Tensor dz =
        second_operand_backward(c, torch::bmm(dy, second.transpose(1, 2)));
    if (first_asked) {
      grad_first = c.unpack_first(torch::bmm(input.transpose(1, 2), dz));
    }
    if (mask[0]) {
      const Tensor dx = torch::bmm(dz, first.transpose(1, 2));
      result.x =
          c.join_input(dx.view({c.gamma, tokens, c.second_in, c.first_in})
                           .permute({1, 3, 2, 0}));  // (tokens, i, s, gamma)
    }
  }
  if (mask[3]) {
    result.bias = grad.sum(0);
  }
  result.core_a = c.ab() ? grad_first : grad_second;
  result.core_b = c.ab() ? grad_second : grad_first;
  return result;
}

}  // namespace

EinsumLinearKernel bmm_kernel() {
  return {"bmm", supports_bmm, forward, backward};
}

}  // namespace einforge::ops
