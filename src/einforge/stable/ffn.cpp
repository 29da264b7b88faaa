// A feed-forward network as one operator, for Python: torch's compiler does not
// see into it, and it saves its operands alone for backward. The program calls
// ops/ffn.h, whose gradients are C++'s.
#include <torch/library.h>

#include <array>
#include <optional>
#include <string>
#include <tuple>

#include "einforge/ops/einsum_linear.h"
#include "einforge/ops/operands.h"

namespace einforge::stable {
namespace {

using torch::Tensor;
using Bias = std::optional<Tensor>;
using Gradients =
    std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

Tensor gelu(const Tensor& x) {
  return x.run("aten::gelu", std::string("tanh"));
}

Tensor gelu_backward(const Tensor& grad, const Tensor& x) {
  return grad.run("aten::gelu_backward", x, std::string("tanh"));
}

// What fails in operators that are called here has lost its reason.
void check_layer(
    const Tensor& x,
    const Tensor& core_a,
    const Tensor& core_b,
    const Bias& bias,
    const structure::Sizes& sizes) {
  for (const Tensor& core : {core_a, core_b}) {
    ops::check_dtype_and_device(
        "ffn", "cores of x's dtype and device,", core, x.scalar_type(), x);
  }
  if (bias) {
    ops::check_bias("ffn", "bias", *bias, sizes.d_out());
    ops::check_dtype_and_device(
        "ffn", "a bias of x's dtype and device,", *bias, x.scalar_type(), x);
  }
}

void check(
    const Tensor& x,
    const Tensor& in_a,
    const Tensor& in_b,
    const Bias& in_bias,
    const Tensor& out_a,
    const Tensor& out_b,
    const Bias& out_bias) {
  const structure::Sizes in = ops::core_sizes(in_a, in_b);
  const structure::Sizes out = ops::core_sizes(out_a, out_b);
  ops::check_x("ffn", x, in.d_in());
  TORCH_CHECK(
      in.d_out() == out.d_in(),
      "[ffn] expected layers of equal hidden features; got ",
      in.d_out(),
      " out of the first and ",
      out.d_in(),
      " into the second");
  check_layer(x, in_a, in_b, in_bias, in);
  check_layer(x, out_a, out_b, out_bias, out);
}

Tensor forward(
    const Tensor& x,
    const Tensor& in_a,
    const Tensor& in_b,
    const Bias& in_bias,
    const Tensor& out_a,
    const Tensor& out_b,
    const Bias& out_bias,
    std::optional<bool> /*fused*/) {
  check(x, in_a, in_b, in_bias, out_a, out_b, out_bias);
  return ops::einsum_linear(
      gelu(ops::einsum_linear(x, in_a, in_b, in_bias)), out_a, out_b, out_bias);
}

// The hidden features are computed again.
Gradients backward(
    const Tensor& grad,
    const Tensor& x,
    const Tensor& in_a,
    const Tensor& in_b,
    const Bias& in_bias,
    const Tensor& out_a,
    const Tensor& out_b,
    std::array<bool, 7> mask) {
  check(x, in_a, in_b, in_bias, out_a, out_b, std::nullopt);
  const bool of_in = mask[0] || mask[1] || mask[2] || mask[3];
  const Tensor hidden = ops::einsum_linear(x, in_a, in_b, in_bias);
  const auto [d_gelu, d_out_a, d_out_b, d_out_bias] =
      ops::einsum_linear_backward(
          grad, gelu(hidden), out_a, out_b, {of_in, mask[4], mask[5], mask[6]});
  if (!of_in) {
    const auto none = [&] { return x.new_empty({0}); };
    return {none(), none(), none(), none(), d_out_a, d_out_b, d_out_bias};
  }
  const auto [d_x, d_in_a, d_in_b, d_in_bias] = ops::einsum_linear_backward(
      gelu_backward(d_gelu, hidden),
      x,
      in_a,
      in_b,
      {mask[0], mask[1], mask[2], mask[3]});
  return {d_x, d_in_a, d_in_b, d_in_bias, d_out_a, d_out_b, d_out_bias};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(einforge, m) {
  m.def(
      "ffn(Tensor x, Tensor in_a, Tensor in_b, Tensor? in_bias, Tensor out_a, "
      "Tensor out_b, Tensor? out_bias, bool? fused=None) -> Tensor");
  m.def(
      "ffn_backward(Tensor grad, Tensor x, Tensor in_a, Tensor in_b, "
      "Tensor? in_bias, Tensor out_a, Tensor out_b, bool[7] output_mask) -> "
      "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(einforge, CPU, m) {
  m.impl("ffn", TORCH_FN(forward));
  m.impl("ffn_backward", TORCH_FN(backward));
}

TORCH_LIBRARY_IMPL(einforge, CUDA, m) {
  m.impl("ffn", TORCH_FN(forward));
  m.impl("ffn_backward", TORCH_FN(backward));
}

}  // namespace einforge::stable
