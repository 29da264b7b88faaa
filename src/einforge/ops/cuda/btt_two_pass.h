#pragma once

#include <torch/types.h>

#include "einforge/kernels/cuda/btt_linear.h"
#include "einforge/kernels/cuda/routed_rows.h"
#include "einforge/ops/kernel_table.h"

namespace einforge::ops {

// A block-tensor-train layer of any sizes in two passes (two_pass_btt_kernel()
// of btt_linear.h), for the rows of a mixture of experts or for all tokens.
namespace two_pass {

// A layer and its operands as the kernels see them: the core contracted first
// is A. Of a mixture the cores are those of all experts, and `rows` says which
// tokens each has; else rows.offsets is null and rows.pairs the tokens.
struct Layer {
  kernels::cuda::BttSizes sizes;
  kernels::cuda::BttCores cores;
  kernels::cuda::RoutedRows rows;

  Layer transposed() const;
};

// Whether all kernels of the pass are there. Compiles them, which takes seconds
// when they are not in the cache.
bool supports(
    const kernels::cuda::BttSizes& sizes,
    std::int64_t rows,
    int experts,
    Pass pass);

// Activations (tokens, d_in) as the kernels read them: aligned, gamma padded
// with zeros to a multiple of eight. What the functions below take as x and dy
// may be so too; several that take the same spare the copies.
torch::Tensor padded_input(const Layer& layer, const torch::Tensor& x);

// @param x (tokens, d_in), contiguous
// @param z where not null, the result of the first stage
// @return (pairs, d_out): a row for each pair
torch::Tensor rows(
    const Layer& layer, const torch::Tensor& x, torch::Tensor* z = nullptr);

// @param gates (tokens, active) float32, or undefined
// @param bias (d_out) bfloat16, or undefined
// @return (tokens, d_out): the sum over the pairs of a token, each times its
//   gate, and the bias. Of a mixture rows.bins is rows.active, at most 2.
torch::Tensor sum(
    const Layer& layer,
    const torch::Tensor& x,
    const torch::Tensor& gates,
    const torch::Tensor& bias);

// The gradients of the cores, (.., in, gamma, out, phi, rho) of any strides;
// undefined where not asked for.
//
// @param dz of rows() of the transposed layer, or undefined
void core_gradients(
    const Layer& layer,
    const torch::Tensor& x,
    const torch::Tensor& dy,
    const torch::Tensor& gates,
    torch::Tensor dz,
    const torch::Tensor& grad_first,
    const torch::Tensor& grad_second);

// The parts of the passes of one layer, for what runs something of its own
// between them. Slabs are how z and dz lie in memory: of z vectors of eight
// gammas, (gamma / 8, rows, (rho, phi), 8).

// @param x (tokens, d_in), contiguous
// @return z in slabs
torch::Tensor into_slabs(const Layer& layer, const torch::Tensor& x);

// @return (rows, d_out)
torch::Tensor out_of_slabs(const Layer& layer, const torch::Tensor& z);

// @param dz in slabs, as into_slabs() of the transposed layer gives it
// @param grad of the core contracted first, of any strides
void first_gradient(
    const Layer& layer,
    const torch::Tensor& x,
    const torch::Tensor& dz,
    const torch::Tensor& grad);

// @param z in slabs
// @param grad of the core contracted second, of any strides
void second_gradient(
    const Layer& layer,
    const torch::Tensor& z,
    const torch::Tensor& dy,
    const torch::Tensor& grad);

}  // namespace two_pass
}  // namespace einforge::ops
