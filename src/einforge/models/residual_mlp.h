#pragma once

#include <memory>
#include <vector>

#include "einforge/models/model.h"
#include "einforge/nn/layer_norm.h"
#include "einforge/nn/token_layer.h"

namespace einforge::models {

// x + ffn(norm(x)), with a GELU in the FFN.
class ResidualMlpBlock : public nn::Layer {
 public:
  ResidualMlpBlock(
      const ModelConfig& config,
      const ModelPlan& plan,
      const at::Generator& generator);

  // @param x (batch, width)
  // @return (batch, width)
  torch::Tensor forward(const torch::Tensor& x);

 private:
  std::shared_ptr<nn::LayerNorm> norm_;
  // Either the two matrices or the mixture of such networks.
  std::shared_ptr<nn::TokenLayer> ffn_in_;
  std::shared_ptr<nn::TokenLayer> ffn_out_;
  std::shared_ptr<nn::TokenLayer> ffn_;
};

// The paper's student of the regression task: a dense input layer, GELU and
// LayerNorm; `layers` residual blocks, whose matrices have the structure asked
// for; a head.
// Source: arXiv 2410.02117, section 5 and its public code.
class ResidualMlp : public Model {
 public:
  ResidualMlp(
      const ModelConfig& config,
      ModelPlan plan,
      const at::Generator& generator);

  torch::Tensor forward(const torch::Tensor& x) override;
  torch::Tensor loss(const torch::Tensor& x, const torch::Tensor& y) override;

 private:
  std::shared_ptr<nn::TokenLayer> input_;
  std::shared_ptr<nn::LayerNorm> norm_;
  std::vector<std::shared_ptr<ResidualMlpBlock>> blocks_;
  std::shared_ptr<nn::TokenLayer> head_;
};

}  // namespace einforge::models
