#pragma once

#include <torch/types.h>

#include <cstdint>
#include <string_view>
#include <vector>

// What einsum_linear and btt_moe_linear ask of their operands alike; errors
// begin with [op].
namespace einforge::ops {

// `sizes` with another last one.
std::vector<std::int64_t> with_last(c10::IntArrayRef sizes, std::int64_t last);

// @throw c10::Error unless x is (..., d_in) of a floating-point dtype
void check_x(std::string_view op, const torch::Tensor& x, std::int64_t d_in);

// @param what for the message: "expected WHAT Float on cpu; got ..."
// @throw c10::Error unless the tensor has this dtype and the device of x
void check_dtype_and_device(
    std::string_view op,
    std::string_view what,
    const torch::Tensor& tensor,
    torch::ScalarType dtype,
    const torch::Tensor& x);

// @param name of the operand, "bias"
// @throw c10::Error unless the bias is (d_out): none is broadcast
void check_bias(
    std::string_view op,
    std::string_view name,
    const torch::Tensor& bias,
    std::int64_t d_out);

// @throw c10::Error unless the output's gradient is (..., d_out) as x is (...,
//   d_in), of its dtype and device
void check_grad(
    std::string_view op,
    const torch::Tensor& grad,
    const torch::Tensor& x,
    std::int64_t d_out);

}  // namespace einforge::ops
