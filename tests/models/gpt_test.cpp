#include "einforge/models/gpt.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <string>
#include <vector>

#include "einforge/models/sample.h"
#include "tests/base/test_name.h"

namespace einforge::models {
namespace {

constexpr std::int64_t kVocabulary = 96;

ModelConfig gpt(std::int64_t width, const std::string& structure) {
  ModelConfig config;
  config.width = width;
  config.layers = 2;
  config.context = 16;
  config.head_width = 32;
  config.structure.all = structure;
  return config;
}

TEST(Gpt, StartsAtTheUniformLoss) {
  const auto model = make_model(gpt(64, "monarch"), 0, kVocabulary, 768, 0);
  const torch::Tensor x = torch::randint(kVocabulary, {2, 16}, torch::kInt64);
  // The head starts at zero, so that every symbol is equally likely.
  EXPECT_NEAR(model->loss(x, x).item<double>(), std::log(96.0), 1e-6);
}

TEST(Gpt, TakesShorterButNotLongerText) {
  const auto model = make_model(gpt(64, "dense"), 0, kVocabulary, 768, 0);
  const auto tokens = [](std::int64_t time) {
    return torch::zeros({1, time}, torch::kInt64);
  };
  EXPECT_EQ(
      model->forward(tokens(5)).sizes(),
      (std::vector<std::int64_t>{1, 5, kVocabulary}));
  EXPECT_THROW(model->forward(tokens(17)), c10::Error);
}

TEST(Gpt, SeedDecidesTheWeights) {
  const auto weights = [](std::uint64_t seed) {
    return make_model(gpt(64, "btt:0.25"), 0, kVocabulary, 768, seed)
        ->trainable();
  };
  const auto first = weights(1);
  const auto again = weights(1);
  const auto other = weights(2);
  bool differs = false;
  for (std::size_t i = 0; i < first.size(); ++i) {
    EXPECT_TRUE(first[i].tensor.equal(again[i].tensor)) << first[i].name;
    differs = differs || !first[i].tensor.equal(other[i].tensor);
  }
  EXPECT_TRUE(differs);
}

TEST(Sample, RepeatsWithItsSeedAndIsGreedyAtZero) {
  const auto model = make_model(gpt(64, "dense"), 0, kVocabulary, 768, 0);
  {
    // A head that prefers token 7 whatever comes.
    const torch::NoGradGuard no_grad;
    for (const nn::Parameter& p : model->trainable()) {
      if (p.name == "norm.bias") {
        p.tensor.fill_(1);
      }
      if (p.name == "head.weight") {
        p.tensor[7].fill_(1.0 / 64);
      }
    }
  }
  const auto draw = [&](double temperature, std::uint64_t seed) {
    return sample(
        *model,
        16,
        {1, 2, 3},
        {.tokens = 30, .temperature = temperature, .seed = seed});
  };
  EXPECT_EQ(draw(0, 0), std::vector<std::int64_t>(30, 7));
  EXPECT_EQ(draw(1, 5), draw(1, 5));
  EXPECT_NE(draw(1, 5), draw(1, 6));
  const auto top =
      sample(*model, 16, {1}, {.tokens = 9, .temperature = 1, .top_k = 1});
  EXPECT_EQ(top, std::vector<std::int64_t>(9, 7));
}

// The coordinate check of muP: after a few Adam steps at one base rate, how
// much activations have changed must not depend on the width.
// Source: arXiv 2203.03466, appendix D.1.
struct Coordinates {
  double logits = 0;  // rms of the logits
  double change = 0;  // rms of their change in the last step
};

Coordinates train_a_little(std::int64_t width, const std::string& structure) {
  constexpr std::int64_t kBaseWidth = 64;
  const auto model =
      make_model(gpt(width, structure), 0, kVocabulary, kBaseWidth, 0);
  std::vector<torch::optim::OptimizerParamGroup> groups;
  for (const nn::Parameter& p : model->trainable()) {
    groups.emplace_back(
        std::vector<torch::Tensor>{p.tensor},
        std::make_unique<torch::optim::AdamOptions>(
            3e-3 * p.rule.lr_multiplier));
  }
  torch::optim::Adam adam(groups, torch::optim::AdamOptions(3e-3));
  torch::manual_seed(0);
  const torch::Tensor x = torch::randint(kVocabulary, {8, 16}, torch::kInt64);
  const torch::Tensor y = (x * 7 + 3).remainder(kVocabulary);
  torch::Tensor before;
  for (int step = 0; step < 6; ++step) {
    before = model->forward(x).detach();
    adam.zero_grad();
    model->loss(x, y).backward();
    adam.step();
  }
  const torch::Tensor after = model->forward(x).detach();
  const auto rms = [](const torch::Tensor& t) {
    return t.square().mean().sqrt().item<double>();
  };
  return {rms(after), rms(after - before)};
}

class CoordinateTest : public testing::TestWithParam<std::string> {};

INSTANTIATE_TEST_SUITE_P(
    Structures,
    CoordinateTest,
    testing::Values("dense", "low_rank:0.5", "monarch", "btt:0.25"),
    base::testing::TestName());

TEST_P(CoordinateTest, UpdatesDoNotDependOnTheWidth) {
  const Coordinates narrow = train_a_little(64, GetParam());
  const Coordinates wide = train_a_little(512, GetParam());
  // Without muP they would grow by the ratio of widths, 8.
  EXPECT_GT(wide.logits / narrow.logits, 1 / 2.5);
  EXPECT_LT(wide.logits / narrow.logits, 2.5);
  EXPECT_GT(wide.change / narrow.change, 1 / 2.5);
  EXPECT_LT(wide.change / narrow.change, 2.5);
  EXPECT_GT(narrow.change, 0.01);
}

}  // namespace
}  // namespace einforge::models
