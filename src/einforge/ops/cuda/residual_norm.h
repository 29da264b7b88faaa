#pragma once

#include "einforge/ops/residual_norm.h"

// residual_norm() under bfloat16's autocast by one kernel each way.
namespace einforge::ops::fused {

bool takes_residual_norm(
    const torch::Tensor& x,
    const Unbiased& branch,
    const torch::Tensor& gain,
    const torch::Tensor& bias);

// Differentiable, twice too.
ResidualNorm residual_norm(
    const torch::Tensor& x,
    const Unbiased& branch,
    double scale,
    const torch::Tensor& gain,
    const torch::Tensor& bias,
    double epsilon,
    std::size_t readers);

}  // namespace einforge::ops::fused
