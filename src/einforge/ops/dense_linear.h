#pragma once

#include <torch/types.h>

#include <optional>

namespace einforge::ops {

// y = x weight^T + bias, in autocast's dtype. On a GPU under autocast the
// gradients of float32 parameters come in float32 from the products that make
// them, not as copies of rounded ones, and the bias's from sum_of_rows().
//
// @param x (..., d_in)
// @param weight (d_out, d_in)
// @param bias (d_out)
// @return (..., d_out)
torch::Tensor dense_linear(
    const torch::Tensor& x,
    const torch::Tensor& weight,
    const std::optional<torch::Tensor>& bias = std::nullopt);

}  // namespace einforge::ops
