#include <torch/library.h>
#include <torch/types.h>

#include <array>
#include <tuple>

#include "einforge/ops/size_text.h"

// Shapes only, in symbolic sizes; what einsum_linear's say holds here too.
namespace einforge::ops {
namespace {

using torch::Tensor;

Tensor forward(
    const Tensor& x,
    const Tensor& core_a,
    const Tensor& core_b,
    const Tensor& experts,
    const Tensor& gates) {
  TORCH_CHECK(
      x.dim() >= 1 && core_a.dim() == 6 && core_b.dim() == 6 &&
          experts.dim() == 2 && gates.dim() == 2,
      "[btt_moe_linear] expected x of size (..., d_in), cores of six "
      "dimensions (experts, in, gamma, out, phi, rho), experts and gates of "
      "two; got ",
      x.dim(),
      ", ",
      core_a.dim(),
      ", ",
      core_b.dim(),
      ", ",
      experts.dim(),
      " and ",
      gates.dim(),
      " dimensions");
  for (const int dim : {0, 2, 4, 5}) {
    TORCH_SYM_CHECK(
        core_a.sym_size(dim).sym_eq(core_b.sym_size(dim)),
        "[btt_moe_linear] expected cores of equal experts, gamma, phi and rho "
        "(dimensions 0, 2, 4 and 5); got core_a of size ",
        size_text(core_a.sym_sizes()),
        " and core_b of size ",
        size_text(core_b.sym_sizes()));
  }
  const auto d_in =
      core_a.sym_size(1) * core_b.sym_size(1) * core_a.sym_size(2);
  TORCH_SYM_CHECK(
      x.sym_size(-1).sym_eq(d_in),
      "[btt_moe_linear] expected x of size (..., ",
      d_in,
      "); got ",
      size_text(x.sym_sizes()));
  auto sizes = x.sym_sizes().vec();
  sizes.back() = core_a.sym_size(3) * core_b.sym_size(3) * core_a.sym_size(4);
  return x.new_empty_symint(sizes);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward(
    const Tensor& /*grad*/,
    const Tensor& x,
    const Tensor& core_a,
    const Tensor& core_b,
    const Tensor& /*experts*/,
    const Tensor& gates,
    std::array<bool, 4> output_mask) {
  const auto contiguous = [](bool asked, const Tensor& tensor) {
    return asked ? tensor.new_empty_symint(tensor.sym_sizes())
                 : tensor.new_empty({0});
  };
  const auto like = [&](bool asked, const Tensor& tensor) {
    return asked ? torch::empty_like(tensor) : x.new_empty({0});
  };
  return {
      contiguous(output_mask[0], x),
      like(output_mask[1], core_a),
      like(output_mask[2], core_b),
      contiguous(output_mask[3], gates)};
}

}  // namespace

TORCH_LIBRARY_IMPL(einforge, Meta, m) {
  m.impl("btt_moe_linear", TORCH_FN(forward));
  m.impl("btt_moe_linear_backward", TORCH_FN(backward));
}

}  // namespace einforge::ops
