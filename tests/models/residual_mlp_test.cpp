#include "einforge/models/residual_mlp.h"

#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <map>
#include <string>

namespace einforge::models {
namespace {

ModelConfig student(const std::string& structure = "dense") {
  ModelConfig config;
  config.kind = "residual_mlp";
  config.width = 32;
  config.layers = 3;
  config.structure.all = structure;
  return config;
}

const BaseModel kBase(64, 4);

std::int64_t counted(const Model& model) {
  std::int64_t count = 0;
  for (const torch::Tensor& parameter : model.parameters()) {
    count += parameter.numel();
  }
  return count;
}

TEST(ResidualMlp, IsItsDefinitionInFloat64) {
  const auto model = make_model(student(), 8, 1, kBase, 0);
  std::map<std::string, torch::Tensor> p;
  {
    const torch::NoGradGuard no_grad;
    torch::manual_seed(1);
    for (const nn::Parameter& parameter : model->trainable()) {
      parameter.tensor.add_(torch::randn(parameter.tensor.sizes()), 0.1);
      p[parameter.name] = parameter.tensor.detach().to(torch::kFloat64);
    }
  }
  const auto linear = [&](const torch::Tensor& x, const std::string& name) {
    return x.matmul(p.at(name + ".weight").t()) + p.at(name + ".bias");
  };
  const auto norm = [&](const torch::Tensor& x, const std::string& name) {
    return torch::layer_norm(
        x, {32}, p.at(name + ".gain"), p.at(name + ".bias"), 1e-5);
  };
  torch::manual_seed(2);
  const torch::Tensor x = torch::randn({20, 8});
  torch::Tensor h =
      norm(torch::gelu(linear(x.to(torch::kFloat64), "input"), "tanh"), "norm");
  for (const std::string block : {"blocks_0.", "blocks_1.", "blocks_2."}) {
    h = h + linear(
                torch::gelu(
                    linear(norm(h, block + "norm"), block + "ffn_in"), "tanh"),
                block + "ffn_out");
  }
  const torch::Tensor expected = linear(h, "head");
  EXPECT_LT(
      (model->forward(x) - expected).abs().max().item<double>(),
      1e-5 * (1 + expected.abs().max().item<double>()));
}

TEST(ResidualMlp, HasThePlannedParametersAndRates) {
  for (const char* structure :
       {"dense", "monarch", "btt_moe:E=4,k=2", "ffn_moe:E=4,k=2"}) {
    for (const bool bias : {false, true}) {
      for (const bool cap : {false, true}) {
        ModelConfig config = student(structure);
        config.bias = bias;
        config.rms_cap = cap;
        const auto model = make_model(config, 8, 1, kBase, 0);
        EXPECT_EQ(plan(config, 8, 1, kBase).parameters(), counted(*model))
            << structure << bias << cap;
      }
    }
  }
  std::map<std::string, nn::ParameterRule> rules;
  for (const nn::Parameter& p :
       make_model(student(), 8, 1, kBase, 0)->trainable()) {
    rules[p.name] = p.rule;
  }
  EXPECT_EQ(rules.at("input.weight").lr_multiplier, 1);
  EXPECT_EQ(rules.at("blocks_1.ffn_in.weight").lr_multiplier, 64.0 / 32);
  EXPECT_EQ(rules.at("blocks_1.ffn_out.weight").lr_multiplier, 256.0 / 128);
  EXPECT_EQ(rules.at("head.weight").lr_multiplier, 64.0 / 32);
}

TEST(ResidualMlp, StartsAtZeroAndLearns) {
  const auto model = make_model(student("monarch"), 8, 1, kBase, 0);
  const torch::Tensor x = torch::randn({5, 8});
  EXPECT_EQ(model->forward(x).abs().max().item<double>(), 0);
  model->loss(x, torch::ones({5, 1})).backward();
  double alive = 0;
  for (const nn::Parameter& p : model->trainable()) {
    alive += p.tensor.grad().abs().sum().item<double>();
  }
  EXPECT_GT(alive, 0);
}

}  // namespace
}  // namespace einforge::models
