#pragma once

#include <torch/types.h>

#include <optional>
#include <tuple>

namespace einforge::ops {

// A core whose root mean square is capped, with a learned gain, registered as
// torch.ops.einforge.rms_cap; under autocast in its dtype, which is that of the
// layers that read it:
//
//   gain core / max(1, rms(core) / max_rms)
//
// @param core any shape and strides; float32, float64, bfloat16 or float16;
//   the root mean square is taken in float32 or wider
// @param gain one element, or none for a gain of 1
// @param max_rms positive
// @param dtype of the result; core's where it is not given
// @return the shape and strides of core
// @throw c10::Error when max_rms is not positive or gain not one element
// Differentiable once in core and gain; saves both and no intermediate. On
// CUDA two kernels each way for a float32 core that is dense in memory, with a
// result in float32 or bfloat16; never waits for the device.
// Source: arXiv 2410.02117, section 5.
torch::Tensor rms_cap(
    const torch::Tensor& core,
    const std::optional<torch::Tensor>& gain,
    double max_rms,
    std::optional<torch::ScalarType> dtype = std::nullopt);

// Its gradients of core and gain (of size (0) without a gain).
std::tuple<torch::Tensor, torch::Tensor> rms_cap_backward(
    const torch::Tensor& grad,
    const torch::Tensor& core,
    const std::optional<torch::Tensor>& gain,
    double max_rms);

}  // namespace einforge::ops
