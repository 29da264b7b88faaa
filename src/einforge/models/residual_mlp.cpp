#include "einforge/models/residual_mlp.h"

#include <torch/types.h>

#include <utility>

#include "einforge/models/linear.h"

namespace einforge::models {

ResidualMlpBlock::ResidualMlpBlock(
    const ModelConfig& config,
    const ModelPlan& plan,
    const at::Generator& generator) {
  norm_ = register_module(
      "norm", std::make_shared<nn::LayerNorm>(config.width, config.bias));
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
  ffn_in_ = register_module(
      "ffn_in", make_linear(plan.linear("ffn_in"), config.moe, generator));
  ffn_out_ = register_module(
      "ffn_out", make_linear(plan.linear("ffn_out"), config.moe, generator));
}

torch::Tensor ResidualMlpBlock::forward(const torch::Tensor& x) {
  const torch::Tensor normed = norm_->forward(x);  // (batch, width)
  if (ffn_ != nullptr) {
    return x + ffn_->forward(normed);
  }
  return x + ffn(*ffn_in_, *ffn_out_, normed, /*unbiased=*/false).y;
}

ResidualMlp::ResidualMlp(
    const ModelConfig& config, ModelPlan plan, const at::Generator& generator)
    : Model(std::move(plan)) {
  input_ = register_module(
      "input",
      make_linear(this->plan().linear("input"), config.moe, generator));
  norm_ = register_module(
      "norm", std::make_shared<nn::LayerNorm>(config.width, config.bias));
  for (std::int64_t i = 0; i < config.layers; ++i) {
    blocks_.push_back(register_module(
        fmt::format("blocks_{}", i),
        std::make_shared<ResidualMlpBlock>(config, this->plan(), generator)));
  }
  head_ = register_module(
      "head", make_linear(this->plan().linear("head"), config.moe, generator));
}

torch::Tensor ResidualMlp::forward(const torch::Tensor& x) {
  torch::Tensor h = norm_->forward(with_gelu(*input_, x));  // (batch, width)
  for (const auto& block : blocks_) {
    h = block->forward(h);
  }
  return head_->forward(h);
}

torch::Tensor ResidualMlp::loss(
    const torch::Tensor& x, const torch::Tensor& y) {
  return torch::mse_loss(forward(x), y);
}

}  // namespace einforge::models
