#pragma once

#include "einforge/ops/contraction.h"
#include "einforge/ops/kernel_table.h"

namespace einforge::ops {

// The last row of every table: two batched matmuls with the permutations
// between them done in memory. Any sizes, dtype and device.
EinsumLinearKernel bmm_kernel();

// The same for equally large blocks of rows, each with cores of its own: what
// a mixture of experts needs, of which one layer is the case of one block.
struct BlockCores {
  torch::Tensor first;   // (gamma, blocks, first_in, first_out phi rho)
  torch::Tensor second;  // (phi, blocks, second_in gamma rho, second_out)
};

// @param x (blocks rows, d_in)
// @return (blocks rows, d_out)
torch::Tensor blocks_forward(
    const Contraction& c, const torch::Tensor& x, const BlockCores& cores);

struct BlockGradients {
  torch::Tensor x;
  BlockCores cores;
};

// @param grad (blocks rows, d_out), of the output
// @return those asked for, in the shapes of the operands
BlockGradients blocks_backward(
    const Contraction& c,
    const torch::Tensor& grad,
    const torch::Tensor& x,
    const BlockCores& cores,
    bool x_asked,
    bool first_asked,
    bool second_asked);

}  // namespace einforge::ops
