#include "einforge/ops/moe_routing.h"

#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <limits>
#include <tuple>

#include "einforge/ops/cuda/moe_router.h"
#include "einforge/ops/size_text.h"

namespace einforge::ops {
namespace {

using torch::Tensor;
using torch::autograd::variable_list;

Tensor rows_of(const Tensor& x, const Tensor& weight) {
  return x.reshape({-1, weight.size(1)}).to(weight.scalar_type());
}

class Logits : public torch::autograd::Function<Logits> {
 public:
  static Tensor forward(
      torch::autograd::AutogradContext* context,
      const Tensor& x,
      const Tensor& weight) {
    const c10::impl::ExcludeDispatchKeyGuard guard(
        c10::autocast_dispatch_keyset);
    context->save_for_backward({x, weight});
    if (fused::takes_logits(x, weight)) {
      return fused::logits(x, weight);
    }
    return rows_of(x, weight).matmul(weight.t());
  }

  static variable_list backward(
      torch::autograd::AutogradContext* context, const variable_list& grads) {
    const c10::impl::ExcludeDispatchKeyGuard guard(
        c10::autocast_dispatch_keyset);
    const variable_list saved = context->get_saved_variables();
    const auto [x, weight] = moe_logits_backward(
        grads[0],
        saved[0],
        saved[1],
        {context->needs_input_grad(0), context->needs_input_grad(1)});
    return {x, weight};
  }
};

// The experts and the gates of logits, in one kernel each way.
class Route : public torch::autograd::Function<Route> {
 public:
  static variable_list forward(
      torch::autograd::AutogradContext* context,
      const Tensor& logits,
      std::int64_t active,
      bool softmax_first,
      const std::optional<Tensor>& bias) {
    const MoeRouting routing = fused::route(
        logits, active, {.softmax_first = softmax_first, .bias = bias});
    context->set_materialize_grads(false);
    context->save_for_backward({logits, routing.experts, routing.gates});
    context->saved_data["softmax_first"] = softmax_first;
    context->mark_non_differentiable({routing.experts});
    return {routing.experts, routing.gates};
  }

  static variable_list backward(
      torch::autograd::AutogradContext* context, const variable_list& grads) {
    if (!grads[1].defined()) {
      return variable_list(4);
    }
    const variable_list saved = context->get_saved_variables();
    return {
        fused::route_backward(
            grads[1],
            saved[0],
            {saved[1], saved[2]},
            context->saved_data["softmax_first"].toBool()),
        Tensor(),
        Tensor(),
        Tensor()};
  }
};

void check_experts(const Tensor& experts, std::int64_t count) {
  TORCH_CHECK(
      experts.dim() == 2 && (experts.scalar_type() == torch::kInt32 ||
                             experts.scalar_type() == torch::kInt64),
      "[moe_dispatch] expected experts of size (tokens, active), int32 or "
      "int64; got ",
      size_text(experts.sizes()),
      " ",
      experts.scalar_type());
  TORCH_CHECK(
      experts.numel() < std::numeric_limits<std::int32_t>::max(),
      "[moe_dispatch] expected fewer than 2^31 pairs of a token and an expert; "
      "got ",
      experts.numel());
  TORCH_CHECK(
      count > 0, "[moe_dispatch] expected at least 1 expert; got ", count);
}

// A counting sort, stable.
MoeDispatch dispatch_cpu(const Tensor& experts, std::int64_t count) {
  const Tensor flat = experts.to(torch::kInt64).contiguous();
  const std::int64_t* expert = flat.const_data_ptr<std::int64_t>();
  const std::int64_t pairs = flat.numel();
  MoeDispatch result{
      torch::zeros({count + 1}, torch::kInt32),
      torch::empty({pairs}, torch::kInt32)};
  std::int32_t* offsets = result.offsets.mutable_data_ptr<std::int32_t>();
  std::int32_t* order = result.order.mutable_data_ptr<std::int32_t>();
  for (std::int64_t pair = 0; pair < pairs; ++pair) {
    TORCH_CHECK(
        expert[pair] >= 0 && expert[pair] < count,
        "[moe_dispatch] expected experts in [0, ",
        count,
        "); got ",
        expert[pair]);
    ++offsets[expert[pair] + 1];
  }
  for (std::int64_t e = 0; e < count; ++e) {
    offsets[e + 1] += offsets[e];
  }
  // Each expert's start moves to its end, which is the next one's start.
  for (std::int64_t pair = 0; pair < pairs; ++pair) {
    order[offsets[expert[pair]]++] = static_cast<std::int32_t>(pair);
  }
  for (std::int64_t e = count; e > 0; --e) {
    offsets[e] = offsets[e - 1];
  }
  offsets[0] = 0;
  return result;
}

MoeDispatch dispatch_device(const Tensor& experts, std::int64_t count) {
  if (fused::takes_dispatch(experts, count)) {
    return fused::dispatch(experts, count);
  }
  const auto [sorted, order] =
      experts.to(torch::kInt32)
          .reshape({-1})
          .sort(
              /*stable=*/true, /*dim=*/0, /*descending=*/false);
  const Tensor bounds =
      torch::arange(count + 1, experts.options().dtype(torch::kInt32));
  return {
      torch::searchsorted(sorted, bounds, /*out_int32=*/true),
      order.to(torch::kInt32)};
}

}  // namespace

Tensor moe_logits(const Tensor& x, const Tensor& weight) {
  TORCH_CHECK(
      weight.dim() == 2 && x.dim() >= 1,
      "[moe_logits] expected x of size (..., d_in) and weight of size "
      "(experts, d_in); got ",
      x.dim(),
      " and ",
      weight.dim(),
      " dimensions");
  TORCH_SYM_CHECK(
      x.sym_size(-1).sym_eq(weight.sym_size(1)),
      "[moe_logits] expected x of size (..., d_in) and weight of size "
      "(experts, d_in); got ",
      size_text(x.sym_sizes()),
      " and ",
      size_text(weight.sym_sizes()));
  return Logits::apply(x, weight);
}

std::array<Tensor, 2> moe_logits_backward(
    const Tensor& grad,
    const Tensor& x,
    const Tensor& weight,
    std::array<bool, 2> asked) {
  if (fused::takes_logits(x, weight)) {
    return fused::logits_backward(grad, x, weight, asked);
  }
  std::array<Tensor, 2> result;
  if (asked[0]) {
    result[0] =
        grad.matmul(weight).to(x.scalar_type()).view_symint(x.sym_sizes());
  }
  if (asked[1]) {
    result[1] = grad.t().matmul(rows_of(x, weight));
  }
  return result;
}

bool gates_of_all(
    std::optional<bool> softmax_first,
    std::int64_t active,
    const c10::SymInt& experts) {
  TORCH_CHECK(
      active >= 1 && experts >= active,
      "[moe_route] expected active in 1 to ",
      experts,
      " experts; got ",
      active);
  const bool is_one_of_several = active == 1 && experts > 1;
  TORCH_CHECK(
      softmax_first.value_or(true) || !is_one_of_several,
      "[moe_route] expected softmax_first with 1 active expert, since a "
      "softmax over it alone is 1 and gives the router no gradient; got false");
  return softmax_first.value_or(is_one_of_several);
}

MoeRouting moe_route(
    const Tensor& logits, std::int64_t active, const MoeRouteOptions& options) {
  TORCH_CHECK(
      logits.dim() == 2,
      "[moe_route] expected logits of size (tokens, experts); got ",
      logits.dim(),
      " dimensions");
  const bool softmax_first =
      gates_of_all(options.softmax_first, active, logits.sym_size(1));
  TORCH_CHECK(
      !options.bias || options.bias->numel() == logits.size(1),
      "[moe_route] expected bias of ",
      logits.size(1),
      " experts; got size ",
      size_text(options.bias->sizes()));
  if (fused::takes_route(logits, active)) {
    const variable_list routed =
        Route::apply(logits, active, softmax_first, options.bias);
    return {routed[0], routed[1]};
  }
  const Tensor scores =
      options.bias ? logits.detach() + *options.bias : logits.detach();
  const Tensor chosen =
      std::get<1>(scores.sort(/*stable=*/true, /*dim=*/-1, /*descending=*/true))
          .narrow(-1, 0, active);
  const Tensor gates = softmax_first ? logits.softmax(-1).gather(-1, chosen)
                                     : logits.gather(-1, chosen).softmax(-1);
  return {chosen.to(torch::kInt32).contiguous(), gates};
}

MoeDispatch moe_dispatch(const Tensor& experts, std::int64_t count) {
  check_experts(experts, count);
  return experts.is_cpu() ? dispatch_cpu(experts, count)
                          : dispatch_device(experts, count);
}

Tensor moe_counts(const Tensor& experts, std::int64_t count) {
  return moe_dispatch(experts, count).offsets.diff().to(torch::kInt64);
}

}  // namespace einforge::ops
