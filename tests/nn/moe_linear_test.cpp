#include "einforge/nn/moe_linear.h"

#include <ATen/autocast_mode.h>
#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <cmath>
#include <map>
#include <string>

#include "einforge/nn/moe_ffn.h"
#include "tests/nn/testing.h"

namespace einforge::nn {
namespace {

std::shared_ptr<MoeLinear> layer(
    const std::string& spec,
    std::int64_t d_in,
    std::int64_t d_out,
    const MoeOptions& options = {},
    const EinsumLinearOptions& linear = {}) {
  return std::make_shared<MoeLinear>(
      structure::realise(structure::parse(spec), d_in, d_out),
      options,
      linear,
      generator());
}

// Away from the initial values, some cores over the cap.
void shake(Layer& module) {
  const torch::NoGradGuard no_grad;
  torch::manual_seed(1);
  for (const Parameter& p : module.trainable()) {
    const double scale = p.name == "core_a" ? 3 : 0.5;
    p.tensor.mul_(scale).add_(torch::randn(p.tensor.sizes()), 0.02);
  }
}

// One expert for all tokens, by its definition in float64.
torch::Tensor expert(
    const structure::Structure& s,
    std::map<std::string, Parameter>& p,
    std::int64_t e,
    const torch::Tensor& x) {
  if (s.dense) {
    return x.matmul(wide(p.at("weight").tensor[e]).t());
  }
  const auto cores = structure::parametrisation(s);
  const auto one = torch::ones({});
  const auto core = [&](const std::string& name, std::size_t i) {
    return capped(
        p.at("core_" + name).tensor,
        p.count("gain_" + name) ? p.at("gain_" + name).tensor : one,
        cores[i].init_std)[e];
  };
  return torch::einsum(
             "bgefr,agdfr,nabg->ndef",
             {core("b", 1),
              core("a", 0),
              x.view({-1, s.sizes.alpha, s.sizes.beta, s.sizes.gamma})})
      .reshape({-1, s.d_out});
}

// Token by token: the experts with the highest logits, weighted by a softmax.
template <typename Expert>
torch::Tensor mixture(
    const torch::Tensor& router,
    std::int64_t active,
    const torch::Tensor& x,
    std::int64_t d_out,
    const Expert& expert_of) {
  const torch::Tensor logits = x.matmul(wide(router).t());
  const auto [values, chosen] = logits.topk(active);
  const torch::Tensor gates = values.softmax(-1);
  torch::Tensor y = torch::zeros({x.size(0), d_out}, torch::kFloat64);
  for (std::int64_t e = 0; e < router.size(0); ++e) {
    const torch::Tensor gate = ((chosen == e) * gates).sum(1, true);
    y += gate * expert_of(e);
  }
  return y;
}

struct Case {
  std::string spec;
  std::int64_t d_in;
  std::int64_t d_out;
  bool shared;
};

void PrintTo(const Case& c, std::ostream* out) {
  *out << c.spec << " " << c.d_in << " -> " << c.d_out;
}

class MoeLinearTest : public testing::TestWithParam<Case> {};

INSTANTIATE_TEST_SUITE_P(
    Structures,
    MoeLinearTest,
    testing::Values(
        Case{"monarch", 64, 64, false},
        Case{"monarch", 64, 256, true},
        Case{"btt:0.25", 256, 64, false},
        Case{"low_rank:0.5", 64, 48, true},
        Case{"dense", 48, 96, false},
        Case{"dense", 48, 96, true},
        Case{"theta:0.25,0.5,0.25,0.5,0.25,0.25,0.25", 256, 256, false}));

TEST_P(MoeLinearTest, MatchesItsDefinitionInFloat64) {
  const auto& c = GetParam();
  const auto module = layer(
      c.spec,
      c.d_in,
      c.d_out,
      {.experts = 8, .active = 2, .shared_expert = c.shared});
  shake(*module);
  torch::manual_seed(2);
  const torch::Tensor x = torch::randn({3, 5, c.d_in});
  const torch::Tensor y = module->forward(x);
  ASSERT_EQ(y.sizes(), (std::vector<std::int64_t>{3, 5, c.d_out}));
  auto p = by_name(*module);
  const torch::Tensor x64 = wide(x).view({15, c.d_in});
  torch::Tensor expected = mixture(
      p.at("router.weight").tensor, 2, x64, c.d_out, [&](std::int64_t e) {
        return expert(module->expert(), p, e, x64);
      });
  if (c.shared) {
    std::map<std::string, Parameter> shared;
    for (auto& [name, parameter] : p) {
      if (name.starts_with("shared.")) {
        Parameter stacked = parameter;
        if (parameter.tensor.dim() > 1) {
          stacked.tensor = parameter.tensor.unsqueeze(0);
        }
        shared.emplace(name.substr(7), stacked);
      }
    }
    expected += expert(module->expert(), shared, 0, x64);
  }
  expected += wide(p.at("bias").tensor);
  EXPECT_LT(
      (y.view({15, c.d_out}) - expected).abs().max().item<double>(),
      2e-5 * (1 + rms(expected)));
}

TEST_P(MoeLinearTest, EveryExpertStartsAsALayerOfItsOwnWould) {
  const auto& c = GetParam();
  const auto module = layer(c.spec, c.d_in, c.d_out, {.experts = 64});
  const auto p = by_name(*module);
  const auto cores = structure::parametrisation(module->expert());
  const std::vector<std::string> names =
      module->expert().dense ? std::vector<std::string>{"weight"}
                             : std::vector<std::string>{"core_a", "core_b"};
  for (std::size_t i = 0; i < names.size(); ++i) {
    const Parameter& parameter = p.at(names[i]);
    EXPECT_EQ(parameter.tensor.size(0), 64);
    EXPECT_NEAR(rms(parameter.tensor) / cores[i].init_std, 1, 0.05) << names[i];
    EXPECT_DOUBLE_EQ(parameter.rule.lr_multiplier, cores[i].lr_multiplier);
    EXPECT_TRUE(parameter.rule.decay);
  }
  EXPECT_EQ(p.at("router.weight").tensor.abs().max().item<double>(), 0);
}

TEST_P(MoeLinearTest, ZeroMeansZeroAndItsGradientIsAlive) {
  const auto& c = GetParam();
  const auto module = layer(
      c.spec,
      c.d_in,
      c.d_out,
      {.experts = 4, .shared_expert = c.shared},
      {.zero = true});
  const torch::Tensor x = torch::randn({40, c.d_in});
  const torch::Tensor y = module->forward(x);
  EXPECT_EQ(y.abs().max().item<double>(), 0);
  (y * torch::randn_like(y)).sum().backward();
  double alive = 0;
  for (const Parameter& parameter : module->trainable()) {
    if (parameter.name == "weight" || parameter.name == "core_a" ||
        parameter.name == "core_b") {
      alive += parameter.tensor.grad().abs().sum().item<double>();
    }
  }
  EXPECT_GT(alive, 0);
}

// One routing for several layers, as queries, keys and values can share it.
TEST(MoeLinear, TakesTheRoutingOfAnother) {
  const auto own = layer("monarch", 64, 64, {.experts = 8});
  shake(*own);
  const auto external =
      layer("monarch", 64, 64, {.experts = 8, .external_router = true});
  EXPECT_EQ(external->router(), nullptr);
  EXPECT_EQ(by_name(*external).count("router.weight"), 0U);
  const torch::Tensor x = torch::randn({30, 64});
  EXPECT_THROW(external->forward(x), std::logic_error);
  const ops::MoeRouting routing = own->router()->forward(x);
  EXPECT_TRUE(torch::equal(own->forward(x), own->forward(x, routing)));
  const torch::Tensor y = external->forward(x, routing);
  y.sum().backward();
  // The router learns through both.
  EXPECT_GT(
      by_name(*own)
          .at("router.weight")
          .tensor.grad()
          .abs()
          .sum()
          .item<double>(),
      0);
}

TEST(MoeLinear, TheSameSeedGivesTheSameLayer) {
  const auto first = layer("monarch", 64, 64)->trainable();
  const auto second = layer("monarch", 64, 64)->trainable();
  for (std::size_t i = 0; i < first.size(); ++i) {
    EXPECT_TRUE(first[i].tensor.equal(second[i].tensor)) << first[i].name;
  }
}

TEST(MoeLinear, RunsUnderAutocast) {
  for (const char* spec : {"monarch", "dense"}) {
    const auto module =
        layer(spec, 64, 64, {.experts = 8, .shared_expert = true});
    shake(*module);
    // Exact in bfloat16, so that the router chooses the same.
    const torch::Tensor x =
        torch::randn({30, 64}).to(torch::kBFloat16).to(torch::kFloat32);
    const torch::Tensor exact = module->forward(x);
    at::autocast::set_autocast_enabled(torch::kCPU, true);
    at::autocast::set_autocast_dtype(torch::kCPU, torch::kBFloat16);
    const torch::Tensor y = module->forward(x);
    at::autocast::clear_cache();
    at::autocast::set_autocast_enabled(torch::kCPU, false);
    EXPECT_EQ(y.scalar_type(), torch::kBFloat16) << spec;
    EXPECT_LT(rms(y - exact) / rms(exact), 0.02) << spec;
  }
}

TEST(MoeLinear, TakesOneTokenAndNone) {
  for (const char* spec : {"monarch", "dense"}) {
    const auto module = layer(spec, 64, 32, {.experts = 8});
    shake(*module);
    const torch::Tensor x = torch::randn({7, 64});
    const torch::Tensor all = module->forward(x);
    EXPECT_TRUE(torch::allclose(
        module->forward(x.slice(0, 3, 4)), all.slice(0, 3, 4), 1e-4, 1e-5));
    EXPECT_EQ(
        module->forward(torch::zeros({2, 0, 64})).sizes(),
        (std::vector<std::int64_t>{2, 0, 32}));
  }
}

TEST(FfnMoe, MatchesItsDefinitionInFloat64) {
  for (const bool shared : {false, true}) {
    const auto module = std::make_shared<FfnMoe>(
        32,
        96,
        MoeOptions{.experts = 8, .active = 2, .shared_expert = shared},
        EinsumLinearOptions{},
        generator());
    shake(*module);
    auto p = by_name(*module);
    torch::manual_seed(5);
    const torch::Tensor x = torch::randn({4, 6, 32});
    const torch::Tensor y = module->forward(x);
    ASSERT_EQ(y.sizes(), x.sizes());
    const torch::Tensor x64 = wide(x).view({24, 32});
    const auto ffn = [&](const torch::Tensor& in, const torch::Tensor& out) {
      return torch::gelu(x64.matmul(wide(in).t()), "tanh")
          .matmul(wide(out).t());
    };
    torch::Tensor expected =
        mixture(p.at("router.weight").tensor, 2, x64, 32, [&](std::int64_t e) {
          return ffn(p.at("in").tensor[e], p.at("out").tensor[e]);
        });
    if (shared) {
      expected += ffn(
          p.at("shared_in.weight").tensor, p.at("shared_out.weight").tensor);
    }
    expected += wide(p.at("bias").tensor);
    EXPECT_LT(
        (y.view({24, 32}) - expected).abs().max().item<double>(),
        2e-5 * (1 + rms(expected)));
  }
}

TEST(FfnMoe, EveryExpertStartsAsTwoDenseLayersWould) {
  const FfnMoe module(64, 256, {.experts = 8}, {}, generator());
  const auto p = by_name(module);
  EXPECT_NEAR(rms(p.at("in").tensor), 1 / std::sqrt(64.0), 0.002);
  EXPECT_NEAR(rms(p.at("out").tensor), std::sqrt(64.0) / 256, 0.001);
  EXPECT_DOUBLE_EQ(p.at("in").rule.lr_multiplier, 768.0 / 64);
  EXPECT_DOUBLE_EQ(p.at("out").rule.lr_multiplier, 768.0 / 256);
  // 512 draws of N(0, 1 / 64), as in the paper's code.
  EXPECT_NEAR(rms(p.at("router.weight").tensor), 1 / 8.0, 5 / 8.0 / 32);
  // A base model with an FFN of its own; a router that starts at zero.
  const FfnMoe other(
      64,
      256,
      {.experts = 8, .router = {.init_std = 0}},
      {},
      generator(),
      /*hidden_base_width=*/4 * 768);
  const auto q = by_name(other);
  EXPECT_DOUBLE_EQ(q.at("out").rule.lr_multiplier, 4 * 768.0 / 256);
  EXPECT_EQ(rms(q.at("router.weight").tensor), 0);
}

// One expert per token: the model's loss must still teach the router.
TEST(MixtureOfOne, ItsRouterHasAGradient) {
  const MoeOptions options = {
      .experts = 4,
      .active = 1,
      .router = {.balance_weight = 0, .z_weight = 0}};
  // A jittered router computes its mixture in two operators, not one.
  MoeOptions jittered = options;
  jittered.router.jitter = 0.1;
  std::map<std::string, std::shared_ptr<MoeLayer>> mixtures;
  mixtures["jittered monarch"] = layer("monarch", 64, 64, jittered);
  for (const char* spec : {"monarch", "btt:0.25", "low_rank:0.5", "dense"}) {
    mixtures[spec] = layer(spec, 64, 64, options);
  }
  mixtures["ffn"] = std::make_shared<FfnMoe>(
      64, 128, options, EinsumLinearOptions{}, generator());
  for (auto& [name, module] : mixtures) {
    SCOPED_TRACE(name);
    shake(*module);
    const torch::Tensor weight = by_name(*module).at("router.weight").tensor;
    const torch::Tensor y = module->forward(torch::randn({32, 64}));
    (y * torch::randn_like(y)).sum().backward();
    ASSERT_TRUE(weight.grad().defined());
    EXPECT_GT(rms(weight.grad()), 1e-3);
  }
}

TEST(MoeLinear, WithoutTheCapCoresAreUsedAsTheyAre) {
  const auto module =
      layer("monarch", 64, 64, {.experts = 4, .active = 4}, {.cap = false});
  shake(*module);
  auto p = by_name(*module);
  EXPECT_EQ(p.count("gain_a"), 0U);
  const torch::Tensor x = torch::randn({6, 64});
  const torch::Tensor y = module->forward(x);
  // A softmax over all four experts is one over the chosen.
  const torch::Tensor gates =
      wide(x).matmul(wide(p.at("router.weight").tensor).t()).softmax(-1);
  torch::Tensor expected = wide(p.at("bias").tensor).expand({6, 64}).clone();
  for (std::int64_t e = 0; e < 4; ++e) {
    expected +=
        gates.select(1, e).unsqueeze(1) * torch::einsum(
                                              "bgefr,agdfr,nabg->ndef",
                                              {wide(p.at("core_b").tensor[e]),
                                               wide(p.at("core_a").tensor[e]),
                                               wide(x).view({6, 8, 1, 8})})
                                              .reshape({6, 64});
  }
  EXPECT_LT(
      (y - expected).abs().max().item<double>(), 2e-5 * (1 + rms(expected)));
}

TEST(FfnMoe, TakesNoTokens) {
  FfnMoe module(32, 64, {.experts = 8}, {}, generator());
  EXPECT_EQ(
      module.forward(torch::zeros({0, 32})).sizes(),
      (std::vector<std::int64_t>{0, 32}));
}

}  // namespace
}  // namespace einforge::nn
