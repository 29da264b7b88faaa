#pragma once

#include <memory>
#include <vector>

#include "einforge/models/model.h"
#include "einforge/nn/attention.h"
#include "einforge/nn/layer_norm.h"

namespace einforge::models {

// The residual stream between two blocks: stream + m branch, with
// m = sqrt(3 / layers), which the next LayerNorm adds as it reads them.
struct Residual {
  torch::Tensor stream;  // (batch, time, width)
  ops::Unbiased branch;  // the same, or undefined for none
};

// One pre-LayerNorm transformer block: x + m attention(norm(x)), then
// x + m ffn(norm(x)), with a GELU in the FFN.
class Block : public nn::Layer {
 public:
  Block(
      const ModelConfig& config,
      const ModelPlan& plan,
      const at::Generator& generator);

  Residual forward(const Residual& x);

 private:
  ops::Unbiased ffn(const torch::Tensor& x, bool unbiased);

  double multiplier_;
  std::shared_ptr<nn::LayerNorm> attention_norm_;
  std::shared_ptr<nn::Attention> attention_;
  std::shared_ptr<nn::LayerNorm> ffn_norm_;
  // Either the two matrices or the mixture of such networks.
  std::shared_ptr<nn::TokenLayer> ffn_in_;
  std::shared_ptr<nn::TokenLayer> ffn_out_;
  std::shared_ptr<nn::TokenLayer> ffn_;
};

// GPT-2 with learned positions, an untied head, qk-LayerNorm, muP's attention
// scale and depth multiplier, and a structure of its own for each kind of
// linear layer, mixtures of experts included.
// Source: arXiv 2410.02117, section 5 and appendix.
class Gpt : public Model {
 public:
  Gpt(const ModelConfig& config,
      ModelPlan plan,
      const at::Generator& generator);

  torch::Tensor forward(const torch::Tensor& x) override;
  torch::Tensor loss(const torch::Tensor& x, const torch::Tensor& y) override;

 private:
  torch::Tensor hidden(const torch::Tensor& x);  // what the head reads

  torch::Tensor token_embedding_;     // (vocabulary, width)
  torch::Tensor position_embedding_;  // (context, width)
  double multiplier_;
  std::vector<std::shared_ptr<Block>> blocks_;
  std::shared_ptr<nn::LayerNorm> norm_;
  std::shared_ptr<nn::TokenLayer> head_;
};

}  // namespace einforge::models
