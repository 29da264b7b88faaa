#pragma once

#include <torch/types.h>

namespace einforge::ops {

// y = gain (x - mean(x)) / sqrt(var(x) + epsilon) + bias over the last
// dimension; torch::layer_norm, but for rows of 8 to 256 bfloat16 elements on
// CUDA (a power of two, no bias), such as those of attention's heads: torch
// takes a block for each row, which is ten times the time that memory asks for,
// and under autocast it goes through float32.
//
// @param x (..., width)
// @param gain (width)
// @param bias (width) or undefined
// @return the shape of x; its dtype where the rows are short, else torch's
// Source: arXiv 1607.06450.
torch::Tensor layer_norm(
    const torch::Tensor& x,
    const torch::Tensor& gain,
    const torch::Tensor& bias,
    double epsilon);

}  // namespace einforge::ops
