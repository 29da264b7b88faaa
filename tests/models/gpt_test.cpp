#include "einforge/models/gpt.h"

#include <gtest/gtest.h>
#include <torch/optim/adam.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <cmath>
#include <map>
#include <set>
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

// One expert that every token takes is a layer without experts.
TEST(Gpt, AMixtureOfOneIsTheExpert) {
  const auto mixture =
      make_model(gpt(64, "btt_moe:E=1,k=1"), 0, kVocabulary, 768, 0);
  const auto plain = make_model(gpt(64, "btt:0"), 0, kVocabulary, 768, 0);
  const torch::NoGradGuard no_grad;
  torch::manual_seed(1);
  std::map<std::string, torch::Tensor> weights;
  for (const nn::Parameter& p : mixture->trainable()) {
    p.tensor.normal_(0, 0.2);
    weights[p.name] = p.tensor;
  }
  for (const nn::Parameter& p : plain->trainable()) {
    p.tensor.copy_(weights.at(p.name).view(p.tensor.sizes()));
  }
  const torch::Tensor x = torch::randint(kVocabulary, {2, 16}, torch::kInt64);
  EXPECT_TRUE(torch::allclose(mixture->forward(x), plain->forward(x), 1e-4));
}

void spread_tokens(Model& model) {
  const torch::NoGradGuard no_grad;
  torch::manual_seed(2);
  for (const nn::Parameter& p : model.trainable()) {
    p.tensor.normal_(0, 0.2);
  }
}

// As generating needs: what a token becomes does not depend on the others that
// its experts work for.
TEST(Gpt, TokensOfAMixtureDoNotMeet) {
  for (const char* structure : {"btt_moe:E=8,k=2", "ffn_moe:E=8,k=2"}) {
    const auto model = make_model(gpt(64, structure), 0, kVocabulary, 768, 0);
    spread_tokens(*model);
    const torch::NoGradGuard no_grad;
    const torch::Tensor x = torch::randint(kVocabulary, {3, 16}, torch::kInt64);
    const torch::Tensor together = model->forward(x);
    for (int row = 0; row < 3; ++row) {
      EXPECT_TRUE(torch::allclose(
          model->forward(x.narrow(0, row, 1))[0], together[row], 1e-4, 1e-5));
      const torch::Tensor one =
          model->forward(x.narrow(0, row, 1).narrow(1, 0, 1));
      EXPECT_TRUE(torch::allclose(one[0][0], together[row][0], 1e-4, 1e-5));
    }
  }
}

TEST(Gpt, QueriesKeysAndValuesMayShareARouter) {
  ModelConfig config = gpt(64, "btt_moe:E=4,k=2");
  const auto names = [&] {
    std::set<std::string> found;
    const auto model = make_model(config, 0, kVocabulary, 768, 0);
    for (const auto& [name, router] : nn::routers(*model)) {
      if (name.starts_with("blocks_1.attention")) {
        found.insert(name);
      }
    }
    return found;
  };
  EXPECT_EQ(
      names(),
      (std::set<std::string>{
          "blocks_1.attention.q.router",
          "blocks_1.attention.k.router",
          "blocks_1.attention.v.router",
          "blocks_1.attention.out.router"}));
  config.moe.shared_qkv_router = true;
  EXPECT_EQ(
      names(),
      (std::set<std::string>{
          "blocks_1.attention.router", "blocks_1.attention.out.router"}));
  // The shared one does what three with its weights do.
  const auto shared = make_model(config, 0, kVocabulary, 768, 0);
  spread_tokens(*shared);
  std::map<std::string, torch::Tensor> weights;
  for (const nn::Parameter& p : shared->trainable()) {
    weights[p.name] = p.tensor;
  }
  config.moe.shared_qkv_router = false;
  const auto separate = make_model(config, 0, kVocabulary, 768, 0);
  {
    const torch::NoGradGuard no_grad;
    for (const nn::Parameter& p : separate->trainable()) {
      std::string name = p.name;
      for (const char* which : {"q.router", "k.router", "v.router"}) {
        if (const auto at = name.find(which); at != std::string::npos) {
          name.erase(at, 2);
        }
      }
      p.tensor.copy_(weights.at(name));
    }
    const torch::Tensor x = torch::randint(kVocabulary, {2, 16}, torch::kInt64);
    EXPECT_TRUE(shared->forward(x).equal(separate->forward(x)));
  }
  config.moe.shared_qkv_router = true;
  // All three take their part in what it learns.
  const auto model = make_model(config, 0, kVocabulary, 768, 0);
  spread_tokens(*model);
  const torch::Tensor x = torch::randint(kVocabulary, {2, 16}, torch::kInt64);
  model->loss(x, x).backward();
  for (const nn::Parameter& p : model->trainable()) {
    ASSERT_TRUE(p.tensor.grad().defined()) << p.name;
    EXPECT_GT(p.tensor.grad().abs().max().item<double>(), 0) << p.name;
  }
}

TEST(Sample, WorksWithMixtures) {
  ModelConfig config = gpt(64, "btt_moe:E=8,k=2");
  config.moe.shared_qkv_router = true;
  const auto model = make_model(config, 0, kVocabulary, 768, 0);
  spread_tokens(*model);
  model->eval();
  const auto draw = [&] {
    return sample(*model, 16, {1}, {.tokens = 20, .seed = 3});
  };
  const auto tokens = draw();
  EXPECT_EQ(tokens.size(), 20U);
  EXPECT_EQ(draw(), tokens);
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
    testing::Values(
        "dense",
        "low_rank:0.5",
        "monarch",
        "btt:0.25",
        "btt_moe:E=4,k=2",
        "ffn_moe:E=4,k=2"),
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
