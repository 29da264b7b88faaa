#pragma once

#include <torch/types.h>

#include "einforge/kernels/cuda/batched_transpose_shape.h"

// Rows of features to batches of a few columns and back, by a kernel of its
// own; undefined where it does not take the operand, whose copy is torch's.
namespace einforge::ops::fused {

// @param rows (tokens, shape.row())
torch::Tensor to_batches(
    const kernels::cuda::BatchedTransposeShape& shape,
    const torch::Tensor& rows);

// @return (tokens, shape.row())
torch::Tensor to_rows(
    const kernels::cuda::BatchedTransposeShape& shape,
    const torch::Tensor& batches);

}  // namespace einforge::ops::fused
