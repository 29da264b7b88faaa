#pragma once

#include <torch/types.h>

namespace einforge::ops {

// weight[index]: torch.embedding with a gradient that is bitwise the same on
// every run. On CUDA torch's own is summed by atomics for some widths and
// numbers of tokens.
//
// @param weight (rows, width)
// @param index (...), int64 or int32, each from 0 to rows - 1
// @return (..., width)
torch::Tensor embedding(
    const torch::Tensor& weight, const torch::Tensor& index);

// weight[index] + position, on CUDA in one pass in float32.
//
// @param index (..., time)
// @param position (time, width)
// @return (..., time, width)
torch::Tensor embedding(
    const torch::Tensor& weight,
    const torch::Tensor& index,
    const torch::Tensor& position);

}  // namespace einforge::ops
