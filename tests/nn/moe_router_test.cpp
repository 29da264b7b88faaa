#include "einforge/nn/moe_router.h"

#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <cmath>
#include <memory>
#include <numbers>

#include "einforge/base/config.h"
#include "einforge/base/error.h"

namespace einforge::nn {
namespace {

torch::Tensor weight_of(const MoeRouter& router) {
  return router.trainable().at(0).tensor;
}

std::shared_ptr<MoeRouter> router(
    const RouterOptions& options, std::int64_t experts, std::int64_t active) {
  auto result = std::make_shared<MoeRouter>(24, experts, active, options);
  const torch::NoGradGuard no_grad;
  torch::manual_seed(4);
  weight_of(*result).normal_(0, 0.3);
  return result;
}

TEST(MoeRouter, StartsAtZeroWithTheRateOfDense) {
  const MoeRouter fresh(96, 8, 2, {}, /*base_width=*/768);
  const auto parameters = fresh.trainable();
  ASSERT_EQ(parameters.size(), 1U);
  EXPECT_EQ(parameters[0].name, "weight");
  EXPECT_EQ(parameters[0].tensor.sizes(), (std::vector<std::int64_t>{8, 96}));
  EXPECT_EQ(parameters[0].tensor.abs().max().item<double>(), 0);
  EXPECT_DOUBLE_EQ(parameters[0].rule.lr_multiplier, 8);
  EXPECT_TRUE(parameters[0].rule.decay);
}

TEST(MoeRouter, PicksTheHighestLogits) {
  const auto module = router({}, 8, 3);
  const torch::Tensor x = torch::randn({2, 5, 24});
  const auto [experts, gates] = module->forward(x);
  const torch::Tensor logits =
      x.view({10, 24}).matmul(weight_of(*module).t()).detach();
  for (int t = 0; t < 10; ++t) {
    double sum = 0;
    for (int j = 0; j < 3; ++j) {
      const int e = experts[t][j].item<int>();
      const double logit = logits[t][e].item<double>();
      // No expert outside the choice is higher.
      int higher = 0;
      for (int other = 0; other < 8; ++other) {
        higher += logits[t][other].item<double>() > logit;
      }
      EXPECT_EQ(higher, j);
      sum += std::exp(logit);
    }
    for (int j = 0; j < 3; ++j) {
      const double logit = logits[t][experts[t][j].item<int>()].item<double>();
      EXPECT_NEAR(gates[t][j].item<double>(), std::exp(logit) / sum, 1e-6);
    }
  }
}

// Both losses from their definitions, with loops.
TEST(MoeRouter, LossIsTheDefinitions) {
  const RouterOptions options{.balance_weight = 0.3, .z_weight = 0.07};
  const auto module = router(options, 4, 2);
  torch::manual_seed(6);
  const torch::Tensor x = torch::randn({50, 24});
  const auto [experts, gates] = module->forward(x);
  const torch::Tensor logits =
      x.matmul(weight_of(*module).t()).detach().to(torch::kFloat64);
  std::vector<double> probability(4, 0);
  std::vector<double> load(4, 0);
  double z = 0;
  double token_entropy = 0;
  for (int t = 0; t < 50; ++t) {
    double sum = 0;
    for (int e = 0; e < 4; ++e) {
      sum += std::exp(logits[t][e].item<double>());
    }
    z += std::log(sum) * std::log(sum) / 50;
    for (size_t e = 0; e < 4; ++e) {
      const double p =
          std::exp(logits[t][static_cast<int>(e)].item<double>()) / sum;
      probability[e] += p / 50;
      token_entropy -= p * std::log(p) / 50;
    }
    for (int j = 0; j < 2; ++j) {
      load[static_cast<size_t>(experts[t][j].item<int>())] += 1.0 / 100;
    }
  }
  double balance = 0;
  double aggregate_entropy = 0;
  for (size_t e = 0; e < 4; ++e) {
    balance += 4 * probability[e] * load[e];
    aggregate_entropy -= load[e] * std::log(load[e]);
  }
  EXPECT_NEAR(
      module->auxiliary_loss().item<double>(), 0.3 * balance + 0.07 * z, 1e-5);
  const RouterHealth health = module->health();
  EXPECT_NEAR(health.balance_loss, balance, 1e-5);
  EXPECT_NEAR(health.z_loss, z, 1e-4);
  EXPECT_NEAR(health.token_entropy, token_entropy, 1e-5);
  EXPECT_NEAR(health.aggregate_entropy, aggregate_entropy, 1e-9);
  EXPECT_EQ(health.dead, 0);
  std::int64_t most = 0;
  for (size_t e = 0; e < 4; ++e) {
    EXPECT_NEAR(static_cast<double>(health.tokens[e]), 100 * load[e], 1e-9);
    most = std::max(most, health.tokens[e]);
  }
  EXPECT_DOUBLE_EQ(health.largest_share, static_cast<double>(most) / 50);
}

TEST(MoeRouter, LossHasTheGradientOfItsDefinition) {
  const RouterOptions options{.balance_weight = 0.3, .z_weight = 0.07};
  const auto module = std::make_shared<MoeRouter>(24, 4, 2, options);
  module->to(torch::kFloat64);
  torch::Tensor weight = weight_of(*module);
  torch::manual_seed(7);
  {
    const torch::NoGradGuard no_grad;
    weight.normal_(0, 0.3);
  }
  const torch::Tensor x = torch::randn({50, 24}, torch::kFloat64);
  const auto loss = [&] {
    module->forward(x);
    return module->auxiliary_loss();
  };
  loss().backward();
  const torch::Tensor grad = weight.grad().clone();
  const torch::Tensor direction = torch::randn_like(weight);
  const torch::NoGradGuard no_grad;
  constexpr double kStep = 1e-6;
  weight.add_(direction, kStep);
  const double ahead = loss().item<double>();
  weight.add_(direction, -2 * kStep);
  const double behind = loss().item<double>();
  EXPECT_NEAR(
      (grad * direction).sum().item<double>(),
      (ahead - behind) / (2 * kStep),
      1e-7);
}

TEST(MoeRouter, HealthShowsACollapse) {
  const auto module = std::make_shared<MoeRouter>(24, 8, 2, RouterOptions{});
  {
    const torch::NoGradGuard no_grad;
    weight_of(*module)[5].fill_(1);
    weight_of(*module)[3].fill_(0.5);
  }
  module->forward(torch::ones({40, 24}));
  const RouterHealth health = module->health();
  EXPECT_EQ(
      health.tokens, (std::vector<std::int64_t>{0, 0, 0, 40, 0, 40, 0, 0}));
  EXPECT_EQ(health.dead, 6);
  EXPECT_EQ(health.largest_share, 1);
  EXPECT_NEAR(health.aggregate_entropy, std::numbers::ln2, 1e-9);
  EXPECT_NEAR(health.token_entropy, 0, 1e-3);
}

TEST(MoeRouter, AnEvenRouterHasALossOfOne) {
  const auto module = std::make_shared<MoeRouter>(
      24, 8, 2, RouterOptions{.balance_weight = 1, .z_weight = 0});
  module->forward(torch::randn({10, 24}));
  EXPECT_NEAR(module->auxiliary_loss().item<double>(), 1, 1e-6);
  EXPECT_NEAR(module->health().token_entropy, std::log(8), 1e-9);
}

TEST(MoeRouter, NoLossAndNoJitterOutsideTraining) {
  const auto module = router({.jitter = 0.5}, 8, 2);
  const torch::Tensor x = torch::randn({30, 24});
  const auto first = module->forward(x).gates;
  EXPECT_TRUE(module->auxiliary_loss().defined());
  EXPECT_FALSE(torch::equal(first, module->forward(x).gates));
  module->eval();
  const auto calm = module->forward(x).gates;
  EXPECT_FALSE(module->auxiliary_loss().defined());
  EXPECT_TRUE(torch::equal(calm, module->forward(x).gates));
}

// Ten steps of the bias, by hand and by the router.
TEST(MoeRouter, BiasMovesTowardsTheEvenLoad) {
  const auto module = router({.bias_rate = 0.05}, 4, 1);
  torch::manual_seed(9);
  const torch::Tensor x = torch::randn({200, 24}) + 0.3;
  const torch::Tensor logits = x.matmul(weight_of(*module).t()).detach();
  torch::Tensor bias = torch::zeros({4});
  std::int64_t first_most = 0;
  for (int step = 0; step < 10; ++step) {
    const auto chosen = module->forward(x).experts;
    const torch::Tensor expected = (logits + bias).argmax(1);
    ASSERT_TRUE(torch::equal(chosen.view({-1}).to(torch::kInt64), expected));
    module->update_bias();
    for (int e = 0; e < 4; ++e) {
      const std::int64_t load = (expected == e).sum().item<std::int64_t>();
      first_most = step == 0 ? std::max(first_most, load) : first_most;
      bias[e] += 0.05 * ((load < 50) - (load > 50));
    }
    EXPECT_TRUE(torch::allclose(module->named_buffers()["bias"], bias));
  }
  const RouterHealth health = module->health();
  EXPECT_LT(*std::ranges::max_element(health.tokens), first_most);
  // Nothing counted since: nothing to move.
  module->update_bias();
  EXPECT_TRUE(torch::allclose(module->named_buffers()["bias"], bias));
}

TEST(MoeRouter, HasNoBiasWithoutARate) {
  EXPECT_EQ(router({}, 4, 1)->named_buffers().size(), 0U);
}

TEST(MoeRouter, TakesNoTokens) {
  const auto module = router({}, 8, 2);
  EXPECT_THROW((void)module->health(), std::logic_error);
  const auto routing = module->forward(torch::zeros({0, 24}));
  EXPECT_EQ(routing.experts.sizes(), (std::vector<std::int64_t>{0, 2}));
  EXPECT_FALSE(module->auxiliary_loss().defined());
  EXPECT_THROW((void)module->health(), std::logic_error);
}

// With one expert per token a softmax over the chosen would be 1 for every
// logit.
TEST(MoeRouter, OneExpertHasItsShareOfAll) {
  const auto module = router({.balance_weight = 0, .z_weight = 0}, 8, 1);
  const torch::Tensor x = torch::randn({20, 24});
  const auto [experts, gates] = module->forward(x);
  const auto [most, chosen] =
      x.matmul(weight_of(*module).t()).softmax(-1).max(-1, /*keepdim=*/true);
  EXPECT_TRUE(torch::allclose(gates, most));
  EXPECT_TRUE(torch::equal(experts.to(torch::kInt64), chosen));
}

TEST(MoeRouter, StartsWithTheDeviationAskedFor) {
  const MoeRouter fresh(
      400, 16, 2, {.init_std = 1}, 768, at::detail::createCPUGenerator(1));
  const torch::Tensor weight = weight_of(fresh);
  // 6,400 draws: within five of their standard errors.
  EXPECT_NEAR(weight.std().item<double>(), 1 / std::sqrt(400), 0.05 * 0.045);
  EXPECT_NEAR(weight.mean().item<double>(), 0, 5 * 0.05 / 80);
}

TEST(MoeRouter, RefusesWhatMakesNoRouter) {
  const RouterOptions chosen{.gates = "chosen"};
  EXPECT_THROW(MoeRouter(24, 8, 1, chosen), base::InvalidInput);
  EXPECT_NO_THROW(MoeRouter(24, 8, 2, chosen));
  EXPECT_NO_THROW(MoeRouter(24, 1, 1, chosen));
  EXPECT_THROW(MoeRouter(24, 8, 2, {.gates = "some"}), base::InvalidInput);
  EXPECT_THROW(MoeRouter(24, 8, 2, {.reduce = "max"}), base::InvalidInput);
  EXPECT_THROW(MoeRouter(24, 8, 2, {.init_std = -2}), base::InvalidInput);
  EXPECT_THROW(MoeRouter(24, 8, 9, {}), std::invalid_argument);
  EXPECT_THROW(MoeRouter(24, 8, 0, {}), std::invalid_argument);
  EXPECT_THROW(MoeRouter(24, 8, 2, {.jitter = 1}), base::InvalidInput);
  EXPECT_THROW(MoeRouter(24, 8, 2, {.z_weight = -1}), base::InvalidInput);
}

TEST(RouterOptions, GoThroughJson) {
  const RouterOptions options{
      .gates = "all", .jitter = 0.01, .bias_rate = 0.001};
  RouterOptions read;
  base::update_from_json(read, base::to_json(options));
  EXPECT_EQ(read, options);
}

TEST(RouterOptions, ReadWhatAnOlderVersionWrote) {
  const auto gates = [](const char* text) {
    RouterOptions options;
    base::update_from_json(options, base::Json::parse(text));
    return options.gates;
  };
  EXPECT_EQ(gates(R"({"softmax_first": true})"), "all");
  // The default of old, written whether it was meant or not.
  EXPECT_EQ(gates(R"({"softmax_first": false})"), "auto");
  EXPECT_THROW(gates(R"({"softmax_first": 1})"), base::InvalidInput);
  EXPECT_THROW(
      gates(R"({"softmax_first": true, "gates": "all"})"), base::InvalidInput);
}

class Pair : public Layer {
 public:
  Pair() {
    shared_ = register_module(
        "first", std::make_shared<MoeRouter>(24, 8, 2, RouterOptions{}));
    register_module("second", shared_);
    other_ = register_module(
        "other", std::make_shared<MoeRouter>(24, 8, 2, RouterOptions{}));
  }
  std::shared_ptr<MoeRouter> shared_;
  std::shared_ptr<MoeRouter> other_;
};

TEST(Routers, AreFoundOnceAndTheirLossesReduced) {
  const auto module = std::make_shared<Pair>();
  const auto found = routers(*module);
  ASSERT_EQ(found.size(), 2U);
  EXPECT_EQ(found[0].first, "first");
  EXPECT_EQ(found[1].first, "other");
  EXPECT_FALSE(auxiliary_loss(found, "mean").defined());
  {
    const torch::NoGradGuard no_grad;
    weight_of(*module->other_).normal_();
  }
  const torch::Tensor x = torch::randn({5, 24});
  module->shared_->forward(x);
  module->other_->forward(x);
  const double first = module->shared_->auxiliary_loss().item<double>();
  const double other = module->other_->auxiliary_loss().item<double>();
  EXPECT_NE(first, other);
  EXPECT_NEAR(auxiliary_loss(found, "sum").item<double>(), first + other, 1e-8);
  EXPECT_NEAR(
      auxiliary_loss(found, "mean").item<double>(), (first + other) / 2, 1e-8);
}

}  // namespace
}  // namespace einforge::nn
