#include <torch/library.h>

#include <array>
#include <optional>
#include <tuple>

#include "einforge/ops/moe_routing.h"
#include "einforge/ops/size_text.h"

// Shapes only, in symbolic sizes; what einsum_linear's say holds here too.
namespace einforge::ops {
namespace {

using torch::Tensor;

std::tuple<Tensor, Tensor, Tensor, Tensor> forward(
    const Tensor& x,
    const Tensor& router,
    const Tensor& core_a,
    const Tensor& core_b,
    std::int64_t active,
    std::optional<bool> softmax_first,
    const std::optional<Tensor>& /*bias*/,
    const std::optional<Tensor>& output_bias) {
  TORCH_CHECK(
      x.dim() >= 1 && router.dim() == 2 && core_a.dim() == 6 &&
          core_b.dim() == 6,
      "[btt_moe_routed] expected x of size (..., d_in), router of two "
      "dimensions and cores of six (experts, in, gamma, out, phi, rho); got ",
      x.dim(),
      ", ",
      router.dim(),
      ", ",
      core_a.dim(),
      " and ",
      core_b.dim(),
      " dimensions");
  const auto experts = router.sym_size(0);
  gates_of_all(softmax_first, active, experts);
  const auto d_in =
      core_a.sym_size(1) * core_b.sym_size(1) * core_a.sym_size(2);
  TORCH_SYM_CHECK(
      x.sym_size(-1).sym_eq(d_in),
      "[btt_moe_routed] expected x of size (..., ",
      d_in,
      "); got ",
      size_text(x.sym_sizes()));
  TORCH_SYM_CHECK(
      core_a.sym_size(0).sym_eq(experts),
      "[btt_moe_routed] expected router of size (",
      core_a.sym_size(0),
      ", d_in), a row for each expert; got ",
      size_text(router.sym_sizes()));
  const auto d_out =
      core_a.sym_size(3) * core_b.sym_size(3) * core_a.sym_size(4);
  if (output_bias) {
    TORCH_SYM_CHECK(
        output_bias->sym_size(0).sym_eq(d_out),
        "[btt_moe_routed] expected output_bias of size (",
        d_out,
        "); got ",
        size_text(output_bias->sym_sizes()));
  }
  auto sizes = x.sym_sizes().vec();
  sizes.back() = d_out;
  c10::SymInt tokens = 1;
  for (std::int64_t i = 0; i + 1 < x.dim(); ++i) {
    tokens = tokens * x.sym_size(i);
  }
  return {
      x.new_empty_symint(sizes),
      router.new_empty_symint({tokens, experts}),
      torch::empty_symint(
          {tokens, active}, router.options().dtype(torch::kInt32)),
      router.new_empty_symint({tokens, active})};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> backward(
    const std::optional<Tensor>& /*grad_y*/,
    const std::optional<Tensor>& /*grad_logits*/,
    const std::optional<Tensor>& /*grad_gates*/,
    const Tensor& x,
    const Tensor& router,
    const Tensor& core_a,
    const Tensor& core_b,
    const std::optional<Tensor>& output_bias,
    const Tensor& /*logits*/,
    const Tensor& /*experts*/,
    const Tensor& /*gates*/,
    bool /*softmax_first*/,
    std::array<bool, 5> output_mask) {
  const auto contiguous = [](bool asked, const Tensor& tensor) {
    return asked ? tensor.new_empty_symint(tensor.sym_sizes())
                 : tensor.new_empty({0});
  };
  const auto like = [&](bool asked, const Tensor& tensor) {
    return asked ? torch::empty_like(tensor) : tensor.new_empty({0});
  };
  return {
      contiguous(output_mask[0], x),
      contiguous(output_mask[1], router),
      like(output_mask[2], core_a),
      like(output_mask[3], core_b),
      contiguous(output_mask[4], output_bias.value_or(x))};
}

}  // namespace

TORCH_LIBRARY_IMPL(einforge, Meta, m) {
  m.impl("btt_moe_routed", TORCH_FN(forward));
  m.impl("btt_moe_routed_backward", TORCH_FN(backward));
}

}  // namespace einforge::ops
