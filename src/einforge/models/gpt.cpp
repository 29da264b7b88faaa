#include "einforge/models/gpt.h"

#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "einforge/models/linear.h"
#include "einforge/models/token_loss.h"
#include "einforge/ops/embedding.h"

namespace einforge::models {
namespace {

torch::Tensor embedding(
    std::int64_t rows,
    const ModelConfig& config,
    const at::Generator& generator) {
  return torch::empty({rows, config.width}, torch::kFloat64)
      .normal_(0, config.embedding_std, generator)
      .to(torch::kFloat32);
}

double branch_multiplier(const ModelConfig& config) {
  return std::sqrt(3.0 / static_cast<double>(config.layers));
}

}  // namespace

Block::Block(
    const ModelConfig& config,
    const ModelPlan& plan,
    const at::Generator& generator)
    : multiplier_(branch_multiplier(config)) {
  const auto linear = [&](const char* kind) {
    return make_linear(plan.linear(kind), config.moe, generator);
  };
  attention_norm_ = register_module(
      "attention_norm",
      std::make_shared<nn::LayerNorm>(config.width, config.bias));
  // k uses the router of q, which then stands before both.
  const bool shared_router =
      plan.linear("q").structure.spec.mixture && !plan.linear("k").router;
  // Sequenced by hand: the order of arguments' evaluation is not, and the
  // weights depend on it.
  LinearPlan q_plan = plan.linear("q");
  q_plan.router = !shared_router;
  auto q = make_linear(q_plan, config.moe, generator);
  auto k = linear("k");
  auto v = linear("v");
  auto out = linear("attention_out");
  attention_ = register_module(
      "attention",
      std::make_shared<nn::Attention>(
          std::min(config.head_width, config.width),
          std::move(q),
          std::move(k),
          std::move(v),
          std::move(out),
          shared_router ? make_router(plan.linear("q"), config.moe, generator)
                        : nullptr));
  ffn_norm_ = register_module(
      "ffn_norm", std::make_shared<nn::LayerNorm>(config.width, config.bias));
  if (plan.ffn_moe()) {
    ffn_ = register_module(
        "ffn",
        make_ffn_moe(
            plan.linear("ffn_in"),
            plan.linear("ffn_out"),
            config.moe,
            generator));
    return;
  }
  ffn_in_ = register_module("ffn_in", linear("ffn_in"));
  ffn_out_ = register_module("ffn_out", linear("ffn_out"));
}

ops::Unbiased Block::ffn(const torch::Tensor& x, bool unbiased) {
  if (ffn_ != nullptr) {
    return {ffn_->forward(x), {}};
  }
  return models::ffn(*ffn_in_, *ffn_out_, x, unbiased);
}

Residual Block::forward(const Residual& x) {
  const auto [stream, attention_in] = attention_norm_->add(
      x.stream, x.branch, multiplier_, attention_->readers());
  // Whether norms add the branches' biases: all of a model are alike.
  const bool unbiased = ffn_norm_->adds_bias(stream);
  const auto [mixed, ffn_in] = ffn_norm_->add(
      stream, attention_->forward(attention_in, unbiased), multiplier_);
  return {mixed, ffn(ffn_in[0], unbiased)};
}

Gpt::Gpt(
    const ModelConfig& config, ModelPlan plan, const at::Generator& generator)
    : Model(std::move(plan)), multiplier_(branch_multiplier(config)) {
  const std::int64_t vocabulary = this->plan().linear("head").structure.d_out;
  token_embedding_ = add_parameter(
      "token_embedding", embedding(vocabulary, config, generator));
  position_embedding_ = add_parameter(
      "position_embedding", embedding(config.context, config, generator));
  for (std::int64_t i = 0; i < config.layers; ++i) {
    blocks_.push_back(register_module(
        fmt::format("blocks_{}", i),
        std::make_shared<Block>(config, this->plan(), generator)));
  }
  norm_ = register_module(
      "norm", std::make_shared<nn::LayerNorm>(config.width, config.bias));
  head_ = register_module(
      "head", make_linear(this->plan().linear("head"), config.moe, generator));
}

torch::Tensor Gpt::hidden(const torch::Tensor& x) {
  TORCH_CHECK(
      x.dim() == 2 && x.size(1) <= position_embedding_.size(0),
      "[gpt] expected x of size (batch, time), time at most ",
      position_embedding_.size(0),
      "; got ",
      x.sizes());
  Residual h{
      ops::embedding(
          token_embedding_, x, position_embedding_.narrow(0, 0, x.size(1))),
      {}};
  for (const auto& block : blocks_) {
    h = block->forward(h);
  }
  return norm_->add(h.stream, h.branch, multiplier_).normed[0];
}

torch::Tensor Gpt::forward(const torch::Tensor& x) {
  return head_->forward(hidden(x));
}

torch::Tensor Gpt::loss(const torch::Tensor& x, const torch::Tensor& y) {
  const structure::Structure& head = plan().linear("head").structure;
  return token_loss(
      *head_,
      hidden(x).flatten(0, 1),
      y.flatten(),
      // A mixture's routers see all tokens at once.
      head.spec.mixture ? y.numel() : rows_at_once(head.d_out));
}

}  // namespace einforge::models
