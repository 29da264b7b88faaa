#pragma once

#include <memory>
#include <vector>

#include "einforge/models/model.h"
#include "einforge/nn/token_layer.h"

namespace einforge::models {

// The regression network: a dense input layer, `layers` hidden layers of the
// structure asked for and a head, with ReLU between them.
// Source: arXiv 2410.02117, section 5.
class Mlp : public Model {
 public:
  Mlp(const ModelConfig& config,
      ModelPlan plan,
      const at::Generator& generator);

  torch::Tensor forward(const torch::Tensor& x) override;
  torch::Tensor loss(const torch::Tensor& x, const torch::Tensor& y) override;

 private:
  std::shared_ptr<nn::TokenLayer> input_;
  std::vector<std::shared_ptr<nn::TokenLayer>> hidden_;
  std::shared_ptr<nn::TokenLayer> head_;
};

}  // namespace einforge::models
