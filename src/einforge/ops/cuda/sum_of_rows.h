#pragma once

#include <torch/types.h>

// Sums of rows of bfloat16 (sum_of_rows.h) in a fixed order; not
// differentiable.
namespace einforge::ops::fused {

bool takes_sum_of_rows(const torch::Tensor& rows, torch::ScalarType dtype);

torch::Tensor sum_of_rows(const torch::Tensor& rows, torch::ScalarType dtype);

}  // namespace einforge::ops::fused
