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
  const bool adds = ops::normed_attention_adds_biases(x[0], head_width_);
  const auto give = [&](TokenLayer& layer, const torch::Tensor& input) {
    return adds ? layer.forward_unbiased(input, routing)
                : ops::Unbiased{layer.forward(input, routing), {}};
  };
  // One after the other: an observer sees them in this order.
  const ops::Unbiased q = give(*q_, x[0]);
  const ops::Unbiased k = give(*k_, x[1]);
  const ops::Unbiased v = give(*v_, x[2]);
  const torch::Tensor mixed = ops::normed_attention(
      {.q = q,
       .k = k,
       .v = v,
       .q_gain = q_norm_->gain(),
       .k_gain = k_norm_->gain(),
       .epsilon = LayerNorm::kEpsilon,
       .scale = 8.0 / static_cast<double>(head_width_)});
  return unbiased ? out_->forward_unbiased(mixed)
                  : ops::Unbiased{out_->forward(mixed), {}};
}

}  // namespace einforge::nn
