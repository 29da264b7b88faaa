#pragma once

#include <torch/types.h>

#include "einforge/ops/moe_routing.h"

// Mixtures of dense experts: rows in the order of their experts, each expert's
// rows by its own matrix, and back. All are deterministic, and
// differentiable where nothing else is said.
namespace einforge::ops {

// The tokens' rows, once for each of the k experts that take them, by expert.
// Runs in autocast's dtype.
//
// @param x (T, d)
// @param dispatch of experts (T, k)
// @return (T k, d)
torch::Tensor moe_gather(const torch::Tensor& x, const MoeDispatch& dispatch);

// Each expert's rows by its matrix. Runs in autocast's dtype. On CUDA in
// bfloat16 with widths that are multiples of 8 it does not wait for the device;
// elsewhere it does.
//
// @param rows (N, d_in), by expert
// @param weight (E, d_out, d_in)
// @param offsets (E + 1) int32: where each expert's rows begin, and N
// @return (N, d_out)
torch::Tensor moe_grouped_linear(
    const torch::Tensor& rows,
    const torch::Tensor& weight,
    const torch::Tensor& offsets);

// The gradient of such matrices: each expert's sum of p_n q_n^T over its rows;
// zero without rows. Not differentiable.
//
// @param p (N, a), q (N, b), by expert
// @return (E, a, b)
torch::Tensor moe_grouped_outer(
    const torch::Tensor& p,
    const torch::Tensor& q,
    const torch::Tensor& offsets);

// y[t] = sum_j gates[t,j] row of the pair (t, j); summed in the gates' dtype.
//
// @param rows (T k, d), by expert
// @param gates (T, k)
// @return (T, d), the dtype of rows
torch::Tensor moe_combine(
    const torch::Tensor& rows,
    const MoeDispatch& dispatch,
    const torch::Tensor& gates);

}  // namespace einforge::ops
