#include "einforge/ops/reference/einsum_linear.h"

namespace einforge::ops {
namespace {

using torch::Tensor;

// Rows of x, or of the output's gradient, for products with each of a core's
// matrices.
//
// (gamma, rows second_in, first_in)
Tensor first_operand(const Contraction& c, const Tensor& x) {
  return c.split_input(x)
      .permute({3, 0, 2, 1})  // (gamma, rows, second_in, first_in)
      .reshape({c.gamma, x.size(0) * c.second_in, c.first_in});
}

// (phi, rows first_out, second_out)
Tensor last_operand(const Contraction& c, const Tensor& grad) {
  return c.split_output(grad)
      .permute({3, 0, 1, 2})  // (phi, rows, first_out, second_out)
      .reshape({c.phi, grad.size(0) * c.first_out, c.second_out});
}

// The first product's result, (gamma, rows second_in, first_out phi rho), as
// the second's input, (phi, rows first_out, second_in gamma rho).
Tensor second_operand(const Contraction& c, const Tensor& z) {
  const auto rows = z.size(1) / c.second_in;
  return z.view({c.gamma, rows, c.second_in, c.first_out, c.phi, c.rho})
      .permute({4, 1, 3, 2, 0, 5})  // (phi, rows, u, s, gamma, rho)
      .reshape({c.phi, rows * c.first_out, c.second_in * c.gamma * c.rho});
}

Tensor second_operand_backward(const Contraction& c, const Tensor& z) {
  const auto rows = z.size(1) / c.first_out;
  return z.view({c.phi, rows, c.first_out, c.second_in, c.gamma, c.rho})
      .permute({4, 1, 3, 2, 0, 5})  // (gamma, rows, s, u, phi, rho)
      .reshape({c.gamma, rows * c.second_in, c.first_out * c.phi * c.rho});
}

// Operands (batch, blocks m, n) and matrices (batch, blocks, n, q):
// their products (batch, blocks m, q), block by block.
Tensor block_products(const Tensor& operand, const Tensor& matrices) {
  const auto products = matrices.size(0) * matrices.size(1);
  return torch::bmm(
             operand.reshape({products, -1, operand.size(2)}),
             matrices.flatten(0, 1))
      .view({operand.size(0), operand.size(1), matrices.size(3)});
}

// The gradient of the matrices.
Tensor block_gradients(
    const Tensor& operand, const Tensor& grad, std::int64_t blocks) {
  const auto products = operand.size(0) * blocks;
  return torch::bmm(
             operand.reshape({products, -1, operand.size(2)}).transpose(1, 2),
             grad.reshape({products, -1, grad.size(2)}))
      .view({operand.size(0), blocks, operand.size(2), grad.size(2)});
}

// One block.
BlockCores cores_of(
    const Contraction& c, const Tensor& core_a, const Tensor& core_b) {
  const auto [first, second] = c.ordered(core_a, core_b);
  return {
      c.first_matrices(first).unsqueeze(1),
      c.second_matrices(second).unsqueeze(1)};
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
  const Tensor y = blocks_forward(c, x, cores_of(c, core_a, core_b));
  return bias ? y + *bias : y;
}

EinsumLinearGradients backward(
    const EinsumLinearProblem& problem,
    const Tensor& grad,
    const Tensor& x,
    const Tensor& core_a,
    const Tensor& core_b,
    const GradientMask& mask) {
  const Contraction c(problem.sizes);
  const auto [first_asked, second_asked] = c.ordered(mask[1], mask[2]);
  auto [grad_x, cores] = blocks_backward(
      c,
      grad,
      x,
      cores_of(c, core_a, core_b),
      mask[0],
      first_asked,
      second_asked);
  if (first_asked) {
    cores.first = c.unpack_first(cores.first);
  }
  if (second_asked) {
    cores.second = c.unpack_second(cores.second);
  }
  const auto [grad_a, grad_b] = c.ordered(cores.first, cores.second);
  return {
      .x = grad_x,
      .core_a = grad_a,
      .core_b = grad_b,
      .bias = mask[3] ? grad.sum(0) : Tensor()};
}

}  // namespace

EinsumLinearKernel bmm_kernel() {
  return {"bmm", supports_bmm, forward, backward};
}

Tensor blocks_forward(
    const Contraction& c, const Tensor& x, const BlockCores& cores) {
  const Tensor z = block_products(first_operand(c, x), cores.first);
  const Tensor y = block_products(second_operand(c, z), cores.second);
  return c.join_output(
      y.view({c.phi, x.size(0), c.first_out, c.second_out})
          .permute({1, 2, 3, 0}));  // (rows, first_out, second_out, phi)
}

BlockGradients blocks_backward(
    const Contraction& c,
    const Tensor& grad,
    const Tensor& x,
    const BlockCores& cores,
    bool x_asked,
    bool first_asked,
    bool second_asked) {
  const auto blocks = cores.first.size(1);
  const Tensor input = first_operand(c, x);
  const Tensor dy = last_operand(c, grad);
  BlockGradients result;
  if (second_asked) {
    const Tensor z = second_operand(c, block_products(input, cores.first));
    result.cores.second = block_gradients(z, dy, blocks);
  }
  if (x_asked || first_asked) {
    const Tensor dz = second_operand_backward(
        c, block_products(dy, cores.second.transpose(2, 3)));
    if (first_asked) {
      result.cores.first = block_gradients(input, dz, blocks);
    }
    if (x_asked) {
      const Tensor dx = block_products(dz, cores.first.transpose(2, 3));
      result.x =
          c.join_input(dx.view({c.gamma, x.size(0), c.second_in, c.first_in})
                           .permute({1, 3, 2, 0}));  // (rows, i, s, gamma)
    }
  }
  return result;
}

}  // namespace einforge::ops
