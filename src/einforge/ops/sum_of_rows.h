#pragma once

#include <torch/types.h>

namespace einforge::ops {

// What tokens give to a bias: the sum of the rows, in float32 or wider. Two
// kernels in a fixed order for bfloat16 on CUDA.
//
// @param rows (..., width)
// @param dtype of the sum
// @return (width)
torch::Tensor sum_of_rows(const torch::Tensor& rows, torch::ScalarType dtype);

}  // namespace einforge::ops
