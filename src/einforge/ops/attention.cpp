#include "einforge/ops/attention.h"

#include <ATen/SDPBackend.h>
#include <ATen/ops/_fused_sdp_choice.h>
#include <ATen/ops/_scaled_dot_product_efficient_attention.h>
#include <ATen/ops/_scaled_dot_product_efficient_attention_backward.h>
#include <ATen/ops/_scaled_dot_product_flash_attention.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_backward.h>
#include <torch/autograd.h>

#include "einforge/ops/autocast_dtype.h"
#include "einforge/ops/cuda/short_attention.h"
#include "einforge/ops/deterministic.h"
#include "einforge/ops/layer_norm.h"

namespace einforge::ops {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr double kNoDropout = 0.0;
constexpr std::int64_t kWidthStep = 8;  // what the kernels ask of a width

// cuDNN's kernels, which torch prefers, add the parts of q's gradient in any
// order, one part for each tile of 64 or more keys: no more than two parts
// have one sum. They take 0.7 times as long as those whose order can be fixed.
constexpr std::int64_t kMostTime = 128;
constexpr std::int64_t kMostWidth = 128;

class FlashAttention : public torch::autograd::Function<FlashAttention> {
 public:
  static Tensor forward(
      AutogradContext* context,
      const Tensor& q,
      const Tensor& k,
      const Tensor& v,
      double scale) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    const auto [y, sums, q_starts, k_starts, most_q, most_k, seed, offset, _] =
        at::_scaled_dot_product_flash_attention(
            q,
            k,
            v,
            kNoDropout,
            /*is_causal=*/true,
            /*return_debug_mask=*/false,
            scale);
    context->save_for_backward(
        {q, k, v, y, sums, q_starts, k_starts, seed, offset});
    context->saved_data["scale"] = scale;
    context->saved_data["most_q"] = most_q.expect_int();
    context->saved_data["most_k"] = most_k.expect_int();
    return y;
  }

  static variable_list backward(
      AutogradContext* context, const variable_list& grads) {
    const variable_list saved = context->get_saved_variables();
    const Deterministic deterministic;
    const auto [dq, dk, dv] = at::_scaled_dot_product_flash_attention_backward(
        grads[0],
        saved[0],
        saved[1],
        saved[2],
        saved[3],
        saved[4],
        saved[5],
        saved[6],
        context->saved_data["most_q"].toInt(),
        context->saved_data["most_k"].toInt(),
        kNoDropout,
        /*is_causal=*/true,
        saved[7],
        saved[8],
        context->saved_data["scale"].toDouble());
    return {dq, dk, dv, Tensor()};
  }
};

class EfficientAttention
    : public torch::autograd::Function<EfficientAttention> {
 public:
  static Tensor forward(
      AutogradContext* context,
      const Tensor& q,
      const Tensor& k,
      const Tensor& v,
      double scale) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    const auto [y, sums, seed, offset] =
        at::_scaled_dot_product_efficient_attention(
            q,
            k,
            v,
            /*attn_bias=*/std::nullopt,
            /*compute_log_sumexp=*/true,
            kNoDropout,
            /*is_causal=*/true,
            scale);
    context->save_for_backward({q, k, v, y, sums, seed, offset});
    context->saved_data["scale"] = scale;
    return y;
  }

  static variable_list backward(
      AutogradContext* context, const variable_list& grads) {
    const variable_list saved = context->get_saved_variables();
    const Deterministic deterministic;
    const auto [dq, dk, dv, _] =
        at::_scaled_dot_product_efficient_attention_backward(
            grads[0],
            saved[0],
            saved[1],
            saved[2],
            /*attn_bias=*/Tensor(),
            saved[3],
            saved[4],
            saved[5],
            saved[6],
            kNoDropout,
            {true, true, true, false},
            /*is_causal=*/true,
            context->saved_data["scale"].toDouble());
    return {dq, dk, dv, Tensor()};
  }
};

// Of those whose order of sums can be fixed.
at::SDPBackend choice(
    const Tensor& q, const Tensor& k, const Tensor& v, double scale) {
  const Deterministic deterministic;
  return static_cast<at::SDPBackend>(at::_fused_sdp_choice(
      q, k, v, /*attn_mask=*/{}, kNoDropout, /*is_causal=*/true, scale));
}

}  // namespace

Tensor causal_attention(
    const Tensor& given_q,
    const Tensor& given_k,
    const Tensor& given_v,
    double scale) {
  const bool graph = torch::GradMode::is_enabled() &&
                     (given_q.requires_grad() || given_k.requires_grad() ||
                      given_v.requires_grad());
  const std::int64_t width = given_q.size(-1);
  if (given_q.is_cuda() && graph &&
      (given_k.size(-2) > kMostTime || width > kMostWidth)) {
    const std::int64_t lacking = (kWidthStep - width % kWidthStep) % kWidthStep;
    const auto prepared = [&](const Tensor& tensor) {
      const Tensor cast = in_autocast_dtype(tensor);
      return lacking == 0 ? cast : at::constant_pad_nd(cast, {0, lacking});
    };
    const Tensor q = prepared(given_q);
    const Tensor k = prepared(given_k);
    const Tensor v = prepared(given_v);
    const at::SDPBackend backend = choice(q, k, v, scale);
    Tensor y;
    if (backend == at::SDPBackend::flash_attention) {
      y = FlashAttention::apply(q, k, v, scale);
    } else if (backend == at::SDPBackend::efficient_attention) {
      y = EfficientAttention::apply(q, k, v, scale);
    }
    if (y.defined()) {
      return lacking == 0 ? y : y.narrow(-1, 0, width);
    }
    // The rest are matrix products, which have one order.
  }
  return at::scaled_dot_product_attention(
      given_q,
      given_k,
      given_v,
      /*attn_mask=*/{},
      kNoDropout,
      /*is_causal=*/true,
      scale);
}

Tensor normed_attention(const AttentionInputs& inputs) {
  if (fused::takes_short_attention(inputs)) {
    return fused::short_attention(inputs);
  }
  // (batch, time, heads, head_width)
  const auto heads = [&](const Unbiased& of) {
    const Tensor whole =
        of.bias.defined() ? of.y + of.bias.to(of.y.scalar_type()) : of.y;
    return whole.unflatten(-1, {-1, inputs.q_gain.size(0)});
  };
  const Tensor q =
      layer_norm(heads(inputs.q), inputs.q_gain, {}, inputs.epsilon);
  const Tensor k =
      layer_norm(heads(inputs.k), inputs.k_gain, {}, inputs.epsilon);
  return causal_attention(
             q.transpose(1, 2),
             k.transpose(1, 2),
             heads(inputs.v).transpose(1, 2),
             inputs.scale)  // (batch, heads, time, head_width)
      .transpose(1, 2)
      .flatten(-2);
}

bool normed_attention_adds_biases(const Tensor& x, std::int64_t head_width) {
  return fused::short_attention_adds_biases(x, head_width);
}

}  // namespace einforge::ops
