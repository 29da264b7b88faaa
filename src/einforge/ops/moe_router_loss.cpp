#include "einforge/ops/moe_router_loss.h"

#include <torch/library.h>

#include "einforge/ops/cuda/moe_router_loss.h"
#include "einforge/ops/moe_routing.h"
#include "einforge/ops/size_text.h"

namespace einforge::ops {
namespace {

using torch::Tensor;

void check_logits(const Tensor& logits) {
  TORCH_CHECK(
      logits.dim() == 2 && logits.size(1) > 0,
      "[moe_router_loss] expected logits of size (tokens, experts); got ",
      size_text(logits.sizes()));
}

void check_operands(const Tensor& logits, const Tensor& experts) {
  check_logits(logits);
  TORCH_CHECK(
      experts.dim() == 2 && experts.size(0) == logits.size(0) &&
          experts.size(1) > 0 && experts.device() == logits.device() &&
          at::isIntegralType(experts.scalar_type(), /*includeBool=*/false),
      "[moe_router_loss] expected experts of size (",
      logits.size(0),
      ", active), integers, on ",
      logits.device(),
      "; got size ",
      size_text(experts.sizes()),
      ", ",
      experts.scalar_type(),
      " on ",
      experts.device());
}

std::tuple<Tensor, Tensor> forward(
    const Tensor& logits,
    const Tensor& experts,
    double balance_weight,
    double z_weight) {
  check_operands(logits, experts);
  const std::int64_t count = logits.size(1);
  const auto integers = experts.options().dtype(torch::kInt64);
  if (experts.numel() == 0) {
    return {
        torch::zeros({}, logits.options()), torch::zeros({count}, integers)};
  }
  if (fused::takes_router_loss(logits)) {
    return fused::router_loss(logits, experts, balance_weight, z_weight);
  }
  const Tensor counts = moe_counts(experts, count);
  const Tensor load = counts.to(logits.scalar_type());
  const Tensor probability = logits.softmax(-1).mean(0);  // (E)
  const Tensor balance =
      (probability * (load / load.sum())).sum() * static_cast<double>(count);
  const Tensor z = logits.logsumexp(-1).square().mean();
  return {balance_weight * balance + z_weight * z, counts};
}

// With p the shares and lse the logsumexp of a token's logits:
//   dlogits_i = grad p_i / T (balance_weight E (f_i - sum_j p_j f_j)
//                             + 2 z_weight lse)
Tensor backward(
    const Tensor& grad,
    const Tensor& logits,
    const Tensor& counts,
    double balance_weight,
    double z_weight) {
  check_logits(logits);
  const auto tokens = static_cast<double>(logits.size(0));
  const auto count = static_cast<double>(logits.size(1));
  if (logits.size(0) == 0) {
    return torch::zeros_like(logits);
  }
  if (fused::takes_router_loss(logits)) {
    return fused::router_loss_backward(
        grad, logits, counts, balance_weight, z_weight);
  }
  const Tensor load = counts.to(logits.scalar_type());
  const Tensor share = load / load.sum();         // (E)
  const Tensor p = logits.softmax(-1);            // (T, E)
  const Tensor mean = (p * share).sum(-1, true);  // (T, 1)
  const Tensor lse = logits.logsumexp(-1, true);  // (T, 1)
  const Tensor slope = (balance_weight * count) * (share - mean) +
                       (2 * z_weight) * lse;  // (T, E)
  return p * slope * (grad / tokens);
}

std::tuple<Tensor, Tensor> forward_meta(
    const Tensor& logits,
    const Tensor& experts,
    double /*balance_weight*/,
    double /*z_weight*/) {
  TORCH_CHECK(
      logits.dim() == 2 && experts.dim() == 2,
      "[moe_router_loss] expected logits of size (tokens, experts) and experts "
      "of size (tokens, active); got ",
      logits.dim(),
      " and ",
      experts.dim(),
      " dimensions");
  return {
      torch::empty({}, logits.options()),
      torch::empty_symint(
          {logits.sym_size(1)}, experts.options().dtype(torch::kInt64))};
}

Tensor backward_meta(
    const Tensor& /*grad*/,
    const Tensor& logits,
    const Tensor& /*counts*/,
    double /*balance_weight*/,
    double /*z_weight*/) {
  return torch::empty_like(logits, at::MemoryFormat::Contiguous);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(einforge, m) {
  m.def(
      "moe_router_loss(Tensor logits, Tensor experts, float balance_weight, "
      "float z_weight) -> (Tensor, Tensor)",
      {at::Tag::pt2_compliant_tag});
  m.def(
      "moe_router_loss_backward(Tensor grad, Tensor logits, Tensor counts, "
      "float balance_weight, float z_weight) -> Tensor",
      {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(einforge, CPU, m) {
  m.impl("moe_router_loss", TORCH_FN(forward));
  m.impl("moe_router_loss_backward", TORCH_FN(backward));
}

TORCH_LIBRARY_IMPL(einforge, CUDA, m) {
  m.impl("moe_router_loss", TORCH_FN(forward));
  m.impl("moe_router_loss_backward", TORCH_FN(backward));
}

TORCH_LIBRARY_IMPL(einforge, Meta, m) {
  m.impl("moe_router_loss", TORCH_FN(forward_meta));
  m.impl("moe_router_loss_backward", TORCH_FN(backward_meta));
}

std::tuple<Tensor, Tensor> moe_router_loss(
    const Tensor& logits,
    const Tensor& experts,
    double balance_weight,
    double z_weight) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("einforge::moe_router_loss", "")
                             .typed<decltype(moe_router_loss)>();
  return op.call(logits, experts, balance_weight, z_weight);
}

Tensor moe_router_loss_backward(
    const Tensor& grad,
    const Tensor& logits,
    const Tensor& counts,
    double balance_weight,
    double z_weight) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("einforge::moe_router_loss_backward", "")
          .typed<decltype(moe_router_loss_backward)>();
  return op.call(grad, logits, counts, balance_weight, z_weight);
}

}  // namespace einforge::ops
