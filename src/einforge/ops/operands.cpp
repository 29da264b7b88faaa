#include "einforge/ops/operands.h"

#include "einforge/ops/size_text.h"

namespace einforge::ops {
namespace {

bool is_floating(torch::ScalarType dtype) {
  return dtype == torch::kFloat32 || dtype == torch::kFloat64 ||
         dtype == torch::kBFloat16 || dtype == torch::kFloat16;
}

}  // namespace

std::vector<std::int64_t> with_last(c10::IntArrayRef sizes, std::int64_t last) {
  std::vector<std::int64_t> result = sizes.vec();
  result.back() = last;
  return result;
}

void check_x(std::string_view op, const torch::Tensor& x, std::int64_t d_in) {
  TORCH_CHECK(
      x.dim() >= 1 && x.size(-1) == d_in,
      "[",
      op,
      "] expected x of size (..., ",
      d_in,
      "); got ",
      size_text(x.sizes()));
  TORCH_CHECK(
      is_floating(x.scalar_type()),
      "[",
      op,
      "] expected x of a floating-point dtype; got ",
      x.scalar_type());
}

void check_dtype_and_device(
    std::string_view op,
    std::string_view what,
    const torch::Tensor& tensor,
    torch::ScalarType dtype,
    const torch::Tensor& x) {
  TORCH_CHECK(
      tensor.scalar_type() == dtype && tensor.device() == x.device(),
      "[",
      op,
      "] expected ",
      what,
      " ",
      dtype,
      " on ",
      x.device(),
      "; got ",
      tensor.scalar_type(),
      " on ",
      tensor.device());
}

void check_bias(
    std::string_view op,
    std::string_view name,
    const torch::Tensor& bias,
    std::int64_t d_out) {
  TORCH_CHECK(
      bias.dim() == 1 && bias.size(0) == d_out,
      "[",
      op,
      "] expected ",
      name,
      " of size (",
      d_out,
      "); got ",
      size_text(bias.sizes()));
}

void check_grad(
    std::string_view op,
    const torch::Tensor& grad,
    const torch::Tensor& x,
    std::int64_t d_out) {
  const auto sizes = with_last(x.sizes(), d_out);
  TORCH_CHECK(
      grad.sizes() == sizes,
      "[",
      op,
      "_backward] expected grad of size ",
      size_text(sizes),
      "; got ",
      size_text(grad.sizes()));
  check_dtype_and_device(op, "grad of x's dtype", grad, x.scalar_type(), x);
}

}  // namespace einforge::ops
