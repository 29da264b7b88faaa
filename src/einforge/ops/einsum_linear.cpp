#include "einforge/ops/einsum_linear.h"

#include <torch/library.h>

#include <algorithm>

#include "einforge/ops/contraction.h"
#include "einforge/ops/size_text.h"

TORCH_LIBRARY(einforge, m) {
  m.def(
      "einsum_linear(Tensor x, Tensor core_a, Tensor core_b, "
      "Tensor? bias=None) -> Tensor",
      {at::Tag::pt2_compliant_tag});
  m.def(
      "einsum_linear_backward(Tensor grad, Tensor x, Tensor core_a, "
      "Tensor core_b, bool[4] output_mask) -> (Tensor, Tensor, Tensor, Tensor)",
      {at::Tag::pt2_compliant_tag});
  m.def(
      "rms_cap(Tensor core, Tensor? gain, float max_rms, "
      "ScalarType? dtype=None) -> Tensor",
      {at::Tag::pt2_compliant_tag});
  m.def(
      "rms_cap_backward(Tensor grad, Tensor core, Tensor? gain, "
      "float max_rms) -> (Tensor, Tensor)",
      {at::Tag::pt2_compliant_tag});
  m.def(
      "core_init_std(int[] sizes) -> (float, float)",
      TORCH_FN(einforge::ops::core_init_std));
  m.def("core_macs(int[] sizes) -> int", TORCH_FN(einforge::ops::core_macs));
}

namespace einforge::ops {
namespace {

structure::Sizes sizes_of(const char* op, c10::IntArrayRef sizes) {
  TORCH_CHECK(
      sizes.size() == 7 &&
          std::ranges::all_of(sizes, [](auto size) { return size > 0; }),
      "[",
      op,
      "] expected seven sizes above 0 (alpha, beta, gamma, delta, epsilon, "
      "phi, rho); got ",
      sizes);
  return {sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], sizes[6]};
}

}  // namespace

torch::Tensor einsum_linear(
    const torch::Tensor& x,
    const torch::Tensor& core_a,
    const torch::Tensor& core_b,
    const std::optional<torch::Tensor>& bias) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("einforge::einsum_linear", "")
                             .typed<decltype(einsum_linear)>();
  return op.call(x, core_a, core_b, bias);
}

std::tuple<torch::Tensor, torch::Tensor, torch::Tensor, torch::Tensor>
einsum_linear_backward(
    const torch::Tensor& grad,
    const torch::Tensor& x,
    const torch::Tensor& core_a,
    const torch::Tensor& core_b,
    std::array<bool, 4> output_mask) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("einforge::einsum_linear_backward", "")
          .typed<decltype(einsum_linear_backward)>();
  return op.call(grad, x, core_a, core_b, output_mask);
}

structure::Sizes core_sizes(
    const torch::Tensor& core_a, const torch::Tensor& core_b) {
  TORCH_CHECK(
      core_a.dim() == 5 && core_b.dim() == 5,
      "[einsum_linear] expected cores of five dimensions (in, gamma, out, phi, "
      "rho); got core_a of size ",
      size_text(core_a.sizes()),
      " and core_b of size ",
      size_text(core_b.sizes()));
  for (const int dim : {1, 3, 4}) {
    TORCH_CHECK(
        core_a.size(dim) == core_b.size(dim),
        "[einsum_linear] expected cores of equal gamma, phi and rho "
        "(dimensions 1, 3 and 4); got core_a of size ",
        size_text(core_a.sizes()),
        " and core_b of size ",
        size_text(core_b.sizes()));
  }
  const structure::Sizes sizes{
      .alpha = core_a.size(0),
      .beta = core_b.size(0),
      .gamma = core_a.size(1),
      .delta = core_a.size(2),
      .epsilon = core_b.size(2),
      .phi = core_a.size(3),
      .rho = core_a.size(4)};
  for (const std::int64_t size : sizes.values()) {
    TORCH_CHECK(
        size > 0,
        "[einsum_linear] expected cores of sizes at least 1; got core_a of "
        "size ",
        size_text(core_a.sizes()),
        " and core_b of size ",
        size_text(core_b.sizes()));
  }
  return sizes;
}

std::tuple<double, double> core_init_std(c10::IntArrayRef sizes) {
  structure::Structure layer;
  layer.sizes = sizes_of("core_init_std", sizes);
  const auto cores = structure::parametrisation(layer);
  return {cores[0].init_std, cores[1].init_std};
}

std::int64_t core_macs(c10::IntArrayRef sizes) {
  const structure::Sizes layer = sizes_of("core_macs", sizes);
  return structure::macs(layer, structure::cheaper_order(layer));
}

torch::Tensor core_a_layout(
    const torch::Tensor& core, const structure::Sizes& sizes) {
  const Contraction c(sizes);
  return c.ab() ? c.unpack_first(c.pack_first(core))
                : c.unpack_second(c.pack_second(core));
}

torch::Tensor core_b_layout(
    const torch::Tensor& core, const structure::Sizes& sizes) {
  const Contraction c(sizes);
  return c.ab() ? c.unpack_second(c.pack_second(core))
                : c.unpack_first(c.pack_first(core));
}

}  // namespace einforge::ops
