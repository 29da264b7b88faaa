#pragma once

#include <torch/types.h>

// gelu() of float32 and bfloat16 by one kernel each way.
namespace einforge::ops::fused {

bool takes_gelu(const torch::Tensor& x, const torch::Tensor& bias);

// @param x what a layer reads whose output gelu() does
bool gelu_adds_bias(const torch::Tensor& x);

// Differentiable, twice too; saves both.
torch::Tensor gelu(const torch::Tensor& x, const torch::Tensor& bias);

}  // namespace einforge::ops::fused
