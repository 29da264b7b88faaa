#include "einforge/ops/btt_moe_linear.h"

#include <torch/library.h>

#include "einforge/ops/contraction.h"
#include "einforge/ops/einsum_linear.h"
#include "einforge/ops/size_text.h"

TORCH_LIBRARY_FRAGMENT(einforge, m) {
  m.def(
      "btt_moe_linear(Tensor x, Tensor core_a, Tensor core_b, Tensor experts, "
      "Tensor gates) -> Tensor",
      {at::Tag::pt2_compliant_tag});
  m.def(
      "btt_moe_linear_backward(Tensor grad, Tensor x, Tensor core_a, "
      "Tensor core_b, Tensor experts, Tensor gates, bool[4] output_mask) -> "
      "(Tensor, Tensor, Tensor, Tensor)",
      {at::Tag::pt2_compliant_tag});
}

namespace einforge::ops {
namespace {

using torch::Tensor;

// (E, in, gamma, out, phi, rho) with the experts' memory one after the other,
// and each expert's that of Contraction's packed first or second core.
Tensor first_layout(const Tensor& cores) {
  return cores.permute({0, 2, 1, 3, 4, 5})
      .contiguous()
      .permute({0, 2, 1, 3, 4, 5});
}

Tensor second_layout(const Tensor& cores) {
  return cores.permute({0, 4, 1, 2, 5, 3})
      .contiguous()
      .permute({0, 2, 3, 5, 1, 4});
}

}  // namespace

Tensor btt_moe_linear(
    const Tensor& x,
    const Tensor& core_a,
    const Tensor& core_b,
    const Tensor& experts,
    const Tensor& gates) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("einforge::btt_moe_linear", "")
                             .typed<decltype(btt_moe_linear)>();
  return op.call(x, core_a, core_b, experts, gates);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> btt_moe_linear_backward(
    const Tensor& grad,
    const Tensor& x,
    const Tensor& core_a,
    const Tensor& core_b,
    const Tensor& experts,
    const Tensor& gates,
    std::array<bool, 4> output_mask) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("einforge::btt_moe_linear_backward", "")
          .typed<decltype(btt_moe_linear_backward)>();
  return op.call(grad, x, core_a, core_b, experts, gates, output_mask);
}

structure::Sizes expert_sizes(const Tensor& core_a, const Tensor& core_b) {
  TORCH_CHECK(
      core_a.dim() == 6 && core_b.dim() == 6 &&
          core_a.size(0) == core_b.size(0) && core_a.size(0) > 0,
      "[btt_moe_linear] expected cores of six dimensions (experts, in, gamma, "
      "out, phi, rho) and equally many experts; got core_a of size ",
      size_text(core_a.sizes()),
      " and core_b of size ",
      size_text(core_b.sizes()));
  return core_sizes(core_a.select(0, 0), core_b.select(0, 0));
}

Tensor expert_core_a_layout(const Tensor& core, const structure::Sizes& sizes) {
  return Contraction(sizes).ab() ? first_layout(core) : second_layout(core);
}

Tensor expert_core_b_layout(const Tensor& core, const structure::Sizes& sizes) {
  return Contraction(sizes).ab() ? second_layout(core) : first_layout(core);
}

}  // namespace einforge::ops
