#pragma once

#include <torch/types.h>

#include <optional>
#include <tuple>

// rms_cap() of float32 cores without gaps in two passes over memory each way.
namespace einforge::ops::on_cpu {

// @param dtype of the result and of its gradient
bool takes_rms_cap(
    const torch::Tensor& core,
    const std::optional<torch::Tensor>& gain,
    torch::ScalarType dtype);

torch::Tensor rms_cap(
    const torch::Tensor& core,
    const std::optional<torch::Tensor>& gain,
    double max_rms,
    torch::ScalarType dtype);

std::tuple<torch::Tensor, torch::Tensor> rms_cap_backward(
    const torch::Tensor& grad,
    const torch::Tensor& core,
    const std::optional<torch::Tensor>& gain,
    double max_rms);

}  // namespace einforge::ops::on_cpu
