#include <c10/core/DeviceGuard.h>
#include <torch/csrc/autograd/grad_mode.h>
#include <torch/library.h>

#include <optional>
#include <tuple>

#include "einforge/ops/btt_moe_linear.h"
#include "einforge/ops/btt_moe_routed.h"
#include "einforge/ops/cuda/btt_moe_fused.h"
#include "einforge/ops/cuda/moe_router.h"
#include "einforge/ops/operands.h"
#include "einforge/ops/size_text.h"
#include "einforge/ops/sum_of_rows.h"

// The operator where no kernel has all of it, and the choice of the one that
// has.
namespace einforge::ops {
namespace {

using torch::Tensor;
using Five = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

constexpr std::string_view kOp = "btt_moe_routed";

void check(
    const Tensor& x,
    const Tensor& router,
    const Tensor& core_a,
    const Tensor& core_b,
    const std::optional<Tensor>& output_bias) {
  const structure::Sizes sizes = expert_sizes(core_a, core_b);
  check_x(kOp, x, sizes.d_in());
  for (const Tensor* core : {&core_a, &core_b}) {
    check_dtype_and_device(
        kOp, "cores of x's dtype", *core, x.scalar_type(), x);
  }
  TORCH_CHECK(
      router.dim() == 2 && router.size(0) == core_a.size(0) &&
          router.size(1) == sizes.d_in(),
      "[btt_moe_routed] expected router of size (",
      core_a.size(0),
      ", ",
      sizes.d_in(),
      "), a row for each expert; got ",
      size_text(router.sizes()));
  const auto wide =
      x.scalar_type() == torch::kFloat64 ? torch::kFloat64 : torch::kFloat32;
  check_dtype_and_device(kOp, "router of dtype", router, wide, x);
  if (output_bias) {
    check_bias(kOp, "output_bias", *output_bias, sizes.d_out());
  }
}

std::tuple<Tensor, Tensor, Tensor, Tensor> forward(
    const Tensor& x,
    const Tensor& router,
    const Tensor& core_a,
    const Tensor& core_b,
    std::int64_t active,
    std::optional<bool> softmax_first,
    const std::optional<Tensor>& bias,
    const std::optional<Tensor>& output_bias) {
  const c10::DeviceGuard guard(x.device());
  const torch::NoGradGuard no_grad;
  check(x, router, core_a, core_b, output_bias);
  const MoeRouteOptions options{
      .softmax_first = gates_of_all(softmax_first, active, router.size(0)),
      .bias = bias};
  const fused::RoutedOperands operands{
      x, router, core_a, core_b, output_bias.value_or(Tensor())};
  if (fused::takes_routed(operands, active)) {
    const fused::RoutedForward all =
        fused::routed_forward(operands, active, options);
    return {all.y, all.logits, all.routing.experts, all.routing.gates};
  }
  const BttMoeRouted all = btt_moe_routed_by_definition(
      x, router, core_a, core_b, active, options, output_bias);
  return {all.y, all.logits, all.routing.experts, all.routing.gates};
}

// dlogits of the gates' gradient; undefined without one. With dg_j g_j = w_j,
// those of the chosen get w_j - p_j sum(w), and with a softmax over all the
// others -p_e sum(w), p the softmax.
Tensor logits_gradient(
    const Tensor& grad_gates,
    const Tensor& logits,
    const MoeRouting& routing,
    bool softmax_first) {
  if (fused::takes_route(logits, routing.experts.size(1))) {
    return fused::route_backward(grad_gates, logits, routing, softmax_first);
  }
  const Tensor chosen = routing.experts.to(torch::kInt64);
  const Tensor own = grad_gates * routing.gates;     // (T, k)
  const Tensor sum = own.sum(-1, /*keepdim=*/true);  // (T, 1)
  if (softmax_first) {
    return (logits.softmax(-1) * -sum).scatter_add_(-1, chosen, own);
  }
  return torch::zeros_like(logits).scatter_(
      -1, chosen, own - routing.gates * sum);
}

Five backward(
    const std::optional<Tensor>& given_grad_y,
    const std::optional<Tensor>& grad_logits,
    const std::optional<Tensor>& grad_gates,
    const Tensor& x,
    const Tensor& router,
    const Tensor& core_a,
    const Tensor& core_b,
    const std::optional<Tensor>& output_bias,
    const Tensor& logits,
    const Tensor& experts,
    const Tensor& gates,
    bool softmax_first,
    std::array<bool, 5> mask) {
  const c10::DeviceGuard guard(x.device());
  const torch::NoGradGuard no_grad;
  Tensor dx;
  Tensor drouter;
  Tensor da;
  Tensor db;
  const bool whole =
      given_grad_y &&
      fused::takes_routed({x, router, core_a, core_b, Tensor()}, gates.size(1));
  if (whole) {
    const fused::RoutedGradients found = fused::routed_backward(
        {x, router, core_a, core_b, Tensor()},
        {.logits = logits, .routing = {experts, gates}},
        {*given_grad_y,
         grad_logits.value_or(Tensor()),
         grad_gates.value_or(Tensor())},
        softmax_first,
        {mask[0], mask[1], mask[2], mask[3]});
    dx = found.x;
    drouter = found.router;
    da = found.core_a;
    db = found.core_b;
  }
  if (!whole) {
    Tensor dgates = grad_gates.value_or(Tensor());
    if (given_grad_y) {
      Tensor of_gates;
      std::tie(dx, da, db, of_gates) = btt_moe_linear_backward(
          *given_grad_y,
          x,
          core_a,
          core_b,
          experts,
          gates,
          {mask[0], mask[2], mask[3], mask[0] || mask[1]});
      if (mask[0] || mask[1]) {
        dgates = dgates.defined() ? dgates + of_gates : of_gates;
      }
    }
    Tensor dlogits = grad_logits.value_or(Tensor());
    if (dgates.defined() && (mask[0] || mask[1])) {
      const Tensor own =
          logits_gradient(dgates, logits, {experts, gates}, softmax_first);
      dlogits = dlogits.defined() ? dlogits + own : own;
    }
    if (dlogits.defined()) {
      const auto [of_x, of_router] =
          moe_logits_backward(dlogits, x, router, {mask[0], mask[1]});
      if (mask[0]) {
        dx = given_grad_y ? dx + of_x : of_x;
      }
      drouter = of_router;
    }
  }
  const auto asked =
      [](bool is_asked, const Tensor& found, const Tensor& like) {
        if (!is_asked) {
          return like.new_empty({0});
        }
        return found.defined() ? found : torch::zeros_like(like);
      };
  Tensor dbias;
  if (mask[4] && given_grad_y) {
    dbias = sum_of_rows(*given_grad_y, output_bias->scalar_type());
  }
  return {
      asked(mask[0], dx, x),
      asked(mask[1], drouter, router),
      asked(mask[2], given_grad_y ? da : Tensor(), core_a),
      asked(mask[3], given_grad_y ? db : Tensor(), core_b),
      asked(mask[4], dbias, output_bias.value_or(x))};
}

}  // namespace

TORCH_LIBRARY_IMPL(einforge, CPU, m) {
  m.impl("btt_moe_routed", TORCH_FN(forward));
  m.impl("btt_moe_routed_backward", TORCH_FN(backward));
}

TORCH_LIBRARY_IMPL(einforge, CUDA, m) {
  m.impl("btt_moe_routed", TORCH_FN(forward));
  m.impl("btt_moe_routed_backward", TORCH_FN(backward));
}

}  // namespace einforge::ops
