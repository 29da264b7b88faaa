#pragma once

#include <torch/types.h>

#include <cstdint>

#include "einforge/ops/attention.h"

// normed_attention() of short sequences by one kernel each way.
namespace einforge::ops::fused {

bool takes_short_attention(const AttentionInputs& inputs);

bool short_attention_adds_biases(
    const torch::Tensor& x, std::int64_t head_width);

// Differentiable, twice too; saves what it is given and gives.
torch::Tensor short_attention(const AttentionInputs& inputs);

}  // namespace einforge::ops::fused
