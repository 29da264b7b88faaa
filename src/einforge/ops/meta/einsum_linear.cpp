#include <torch/library.h>
#include <torch/types.h>

#include <array>
#include <optional>
#include <tuple>

#include "einforge/ops/size_text.h"

// Shapes only, in symbolic sizes, so that torch.compile can trace dynamic
// ones. The values of sizes are checked where the operator runs.
namespace einforge::ops {
namespace {

using torch::Tensor;

Tensor forward(
    const Tensor& x,
    const Tensor& core_a,
    const Tensor& core_b,
    const std::optional<Tensor>& bias) {
  TORCH_CHECK(
      x.dim() >= 1 && core_a.dim() == 5 && core_b.dim() == 5,
      "[einsum_linear] expected x of size (..., d_in) and cores of five "
      "dimensions (in, gamma, out, phi, rho); got ",
      x.dim(),
      ", ",
      core_a.dim(),
      " and ",
      core_b.dim(),
      " dimensions");
  for (const int dim : {1, 3, 4}) {
    TORCH_SYM_CHECK(
        core_a.sym_size(dim).sym_eq(core_b.sym_size(dim)),
        "[einsum_linear] expected cores of equal gamma, phi and rho "
        "(dimensions 1, 3 and 4); got core_a of size ",
        size_text(core_a.sym_sizes()),
        " and core_b of size ",
        size_text(core_b.sym_sizes()));
  }
  const auto d_in =
      core_a.sym_size(0) * core_b.sym_size(0) * core_a.sym_size(1);
  const auto d_out =
      core_a.sym_size(2) * core_b.sym_size(2) * core_a.sym_size(3);
  TORCH_SYM_CHECK(
      x.sym_size(-1).sym_eq(d_in),
      "[einsum_linear] expected x of size (..., ",
      d_in,
      "); got ",
      size_text(x.sym_sizes()));
  if (bias) {
    TORCH_CHECK(
        bias->dim() == 1, "[einsum_linear] expected bias of one dimension");
    TORCH_SYM_CHECK(
        bias->sym_size(0).sym_eq(d_out),
        "[einsum_linear] expected bias of size (",
        d_out,
        "); got ",
        size_text(bias->sym_sizes()));
  }
  auto sizes = x.sym_sizes().vec();
  sizes.back() = d_out;
  return x.new_empty_symint(sizes);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward(
    const Tensor& grad,
    const Tensor& x,
    const Tensor& core_a,
    const Tensor& core_b,
    std::array<bool, 4> output_mask) {
  const auto like = [&](bool asked, const Tensor& tensor) {
    return asked ? torch::empty_like(tensor) : x.new_empty({0});
  };
  return {
      output_mask[0] ? x.new_empty_symint(x.sym_sizes()) : x.new_empty({0}),
      like(output_mask[1], core_a),
      like(output_mask[2], core_b),
      output_mask[3] ? x.new_empty_symint({grad.sym_size(-1)})
                     : x.new_empty({0})};
}

}  // namespace

TORCH_LIBRARY_IMPL(einforge, Meta, m) {
  m.impl("einsum_linear", TORCH_FN(forward));
  m.impl("einsum_linear_backward", TORCH_FN(backward));
}

}  // namespace einforge::ops
