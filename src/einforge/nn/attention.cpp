#include "einforge/nn/attention.h"

#include <torch/types.h>

#include <utility>

#include "einforge/ops/attention.h"

namespace einforge::nn {

Attention::Attention(
    std::int64_t head_width,
    std::shared_ptr<TokenLayer> q,
    std::shared_ptr<TokenLayer> k,
    std::shared_ptr<TokenLayer> v,
    std::shared_ptr<TokenLayer> out,
    std::shared_ptr<MoeRouter> router)
    : head_width_(head_width),
      q_(register_module("q", std::move(q))),
      k_(register_module("k", std::move(k))),
      v_(register_module("v", std::move(v))),
      out_(register_module("out", std::move(out))),
      q_norm_(register_module(
          "q_norm", std::make_shared<LayerNorm>(head_width, /*bias=*/false))),
      k_norm_(register_module(
          "k_norm", std::make_shared<LayerNorm>(head_width, /*bias=*/false))) {
  if (router != nullptr) {
    router_ = register_module("router", std::move(router));
  }
}

torch::Tensor Attention::forward(const torch::Tensor& x) {
  return forward(std::vector<torch::Tensor>(readers(), x), /*unbiased=*/false)
      .y;
}

ops::Unbiased Attention::forward(
    const std::vector<torch::Tensor>& x, bool unbiased) {
  std::optional<ops::MoeRouting> routing;
  if (router_ != nullptr) {
    routing = router_->forward(x[3]);
  }
  // (batch, time, heads, head_width)
  const auto split = [&](const torch::Tensor& t) {
    return t.unflatten(-1, {-1, head_width_});
  };
  const torch::Tensor q = q_norm_->forward(
      split(q_->forward(x[0], routing)));  // (batch, time, heads, d_head)
  const torch::Tensor k = k_norm_->forward(
      split(k_->forward(x[1], routing)));  // (batch, time, heads, d_head)
  const torch::Tensor v =
      split(v_->forward(x[2], routing));  // (batch, time, heads, d_head)
  const torch::Tensor mixed = ops::causal_attention(
      q.transpose(1, 2),
      k.transpose(1, 2),
      v.transpose(1, 2),
      /*scale=*/8.0 / static_cast<double>(head_width_));  // (b, heads, t, d)
  const torch::Tensor joined = mixed.transpose(1, 2).flatten(-2);
  return unbiased ? out_->forward_unbiased(joined)
                  : ops::Unbiased{out_->forward(joined), {}};
}

}  // namespace einforge::nn
