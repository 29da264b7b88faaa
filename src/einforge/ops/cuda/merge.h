#pragma once

#include <torch/types.h>

#include <array>

#include "einforge/structure/structure.h"

// The dense matrix of two cores (merged.h) by a kernel of its own: torch's
// products cannot write gamma innermost, and a copy that does takes several
// times as long.
namespace einforge::ops::fused {

bool takes_merge(const structure::Sizes& sizes, const torch::Tensor& core);

// @return (d_out, d_in)
torch::Tensor merge(
    const structure::Sizes& sizes,
    const torch::Tensor& core_a,
    const torch::Tensor& core_b);

// The gradients of core_a and core_b from the matrix's; undefined where not
// asked for.
std::array<torch::Tensor, 2> merge_gradients(
    const structure::Sizes& sizes,
    const torch::Tensor& core_a,
    const torch::Tensor& core_b,
    const torch::Tensor& grad,
    std::array<bool, 2> asked);

}  // namespace einforge::ops::fused
