#include "einforge/models/mlp.h"

#include <torch/types.h>

#include <utility>

#include "einforge/models/linear.h"

namespace einforge::models {

Mlp::Mlp(
    const ModelConfig& config, ModelPlan plan, const at::Generator& generator)
    : Model(std::move(plan)) {
  input_ = register_module(
      "input",
      make_linear(this->plan().linear("input"), config.moe, generator));
  for (std::int64_t i = 0; i < config.layers; ++i) {
    hidden_.push_back(register_module(
        fmt::format("hidden_{}", i),
        make_linear(this->plan().linear("hidden"), config.moe, generator)));
  }
  head_ = register_module(
      "head", make_linear(this->plan().linear("head"), config.moe, generator));
}

torch::Tensor Mlp::forward(const torch::Tensor& x) {
  torch::Tensor h = torch::relu(input_->forward(x));  // (batch, width)
  for (const auto& layer : hidden_) {
    h = torch::relu(layer->forward(h));
  }
  return head_->forward(h);
}

torch::Tensor Mlp::loss(const torch::Tensor& x, const torch::Tensor& y) {
  return torch::mse_loss(forward(x), y);
}

}  // namespace einforge::models
