#include "einforge/nn/einsum_linear.h"

#include <ATen/autocast_mode.h>
#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <array>
#include <cmath>
#include <string>

#include "einforge/ops/kernel_table.h"
#include "tests/base/test_name.h"
#include "tests/nn/testing.h"

namespace einforge::nn {
namespace {

std::shared_ptr<EinsumLinear> layer(
    const std::string& spec,
    std::int64_t d_in,
    std::int64_t d_out,
    const EinsumLinearOptions& options = {}) {
  return std::make_shared<EinsumLinear>(
      structure::realise(structure::parse(spec), d_in, d_out),
      options,
      generator());
}

// The layer in float64 by its definition, index by index through einsum.
torch::Tensor reference(EinsumLinear& module, const torch::Tensor& x) {
  auto p = by_name(module);
  const structure::Structure& s = module.structure();
  const torch::Tensor x64 = wide(x);
  torch::Tensor y;
  if (s.dense) {
    y = x64.matmul(wide(p["weight"].tensor).t());
  } else {
    const auto cores = structure::parametrisation(s);
    const auto one = torch::ones({});
    const torch::Tensor a = capped(
        p["core_a"].tensor,
        p.count("gain_a") ? p["gain_a"].tensor : one,
        cores[0].init_std);
    const torch::Tensor b = capped(
        p["core_b"].tensor,
        p.count("gain_b") ? p["gain_b"].tensor : one,
        cores[1].init_std);
    y = torch::einsum(
            "bgefr,agdfr,nabg->ndef",
            {b, a, x64.view({-1, s.sizes.alpha, s.sizes.beta, s.sizes.gamma})})
            .reshape({-1, s.d_out});
  }
  return p.count("bias") ? y + p["bias"].tensor.detach() : y;
}

struct Case {
  std::string spec;
  std::int64_t d_in;
  std::int64_t d_out;
};

void PrintTo(const Case& c, std::ostream* out) {
  *out << c.spec << " " << c.d_in << " -> " << c.d_out;
}

class EinsumLinearTest : public testing::TestWithParam<Case> {};

INSTANTIATE_TEST_SUITE_P(
    Structures,
    EinsumLinearTest,
    testing::Values(
        Case{"dense", 48, 96},
        Case{"low_rank:0.5", 64, 64},
        Case{"low_rank:0.75", 64, 256},
        Case{"kronecker", 64, 64},
        Case{"kronecker", 256, 64},
        Case{"tensor_train:0.25", 64, 256},
        Case{"monarch", 64, 64},
        Case{"monarch", 64, 256},
        Case{"btt:0.25", 256, 64},
        Case{"theta:0.5,0.25,0.25,0.25,0.5,0.25,0.25", 256, 256},
        Case{"theta:0.25,0.5,0.25,0.5,0.25,0.25,0.25", 256, 256}),
    base::testing::TestName());

// Cores away from their initial values, some over the cap, so that a wrong cap
// or gain shows.
void shake(EinsumLinear& module) {
  const torch::NoGradGuard no_grad;
  torch::manual_seed(1);
  for (const Parameter& p : module.trainable()) {
    const double scale = p.name == "core_a" ? 3 : 0.5;
    p.tensor.mul_(scale).add_(torch::rand(p.tensor.sizes()), 0.01);
  }
}

TEST_P(EinsumLinearTest, MatchesItsDefinitionInFloat64) {
  const auto [spec, d_in, d_out] = GetParam();
  const auto module = layer(spec, d_in, d_out);
  shake(*module);
  torch::manual_seed(2);
  const torch::Tensor x = torch::randn({3, 5, d_in});
  const torch::Tensor y = module->forward(x);
  ASSERT_EQ(y.sizes(), (std::vector<std::int64_t>{3, 5, d_out}));
  const torch::Tensor expected =
      reference(*module, x.view({-1, d_in})).view({3, 5, d_out});
  EXPECT_LT(
      (y - expected).abs().max().item<double>(), 1e-5 * (1 + rms(expected)));
}

TEST_P(EinsumLinearTest, MergedMatrixDoesTheSame) {
  const auto [spec, d_in, d_out] = GetParam();
  const auto module = layer(spec, d_in, d_out);
  shake(*module);
  const torch::Tensor x = torch::randn({7, d_in});
  const torch::Tensor y = module->forward(x);
  const torch::Tensor merged = module->merge();
  ASSERT_EQ(merged.sizes(), (std::vector<std::int64_t>{d_out, d_in}));
  EXPECT_LT(
      (y - torch::linear(x, merged, module->bias())).abs().max().item<double>(),
      1e-5 * (1 + rms(y)));
}

TEST_P(EinsumLinearTest, InitialStandardDeviationsAreTheParametrisations) {
  const auto [spec, d_in, d_out] = GetParam();
  // Large enough that the measured deviation is known to a few per cent.
  const std::int64_t grow = 16;
  const auto module = layer(spec, d_in * grow, d_out * grow);
  auto p = by_name(*module);
  const auto cores = structure::parametrisation(module->structure());
  const std::array<std::string, 2> names =
      module->structure().dense
          ? std::array<std::string, 2>{"weight", "weight"}
          : std::array<std::string, 2>{"core_a", "core_b"};
  for (std::size_t i = 0; i < cores.size(); ++i) {
    const torch::Tensor& core = p[names[i]].tensor;
    const double samples = static_cast<double>(core.numel());
    EXPECT_NEAR(rms(core) / cores[i].init_std, 1, 4 / std::sqrt(2 * samples))
        << names[i];
    EXPECT_LT(
        std::abs(core.mean().item<double>()),
        5 * cores[i].init_std / std::sqrt(samples));
    EXPECT_EQ(p[names[i]].rule.lr_multiplier, cores[i].lr_multiplier);
    EXPECT_TRUE(p[names[i]].rule.decay);
  }
  for (const char* name : {"gain_a", "gain_b", "bias"}) {
    if (p.count(name)) {
      EXPECT_EQ(p[name].rule, ParameterRule{}) << name;
    }
  }
}

TEST_P(EinsumLinearTest, ZeroLayerIsZeroAndLearns) {
  const auto [spec, d_in, d_out] = GetParam();
  const auto module = layer(spec, d_in, d_out, {.zero = true});
  const torch::Tensor x = torch::randn({4, d_in});
  const torch::Tensor y = module->forward(x);
  EXPECT_EQ(y.abs().max().item<double>(), 0);
  y.sum().backward();
  auto p = by_name(*module);
  const bool b_last = module->structure().dense ||
                      structure::cheaper_order(module->structure().sizes) ==
                          structure::Order::kAB;
  const std::string last =
      module->structure().dense ? "weight" : (b_last ? "core_b" : "core_a");
  for (auto& [name, parameter] : p) {
    const torch::Tensor& gradient = parameter.tensor.grad();
    ASSERT_TRUE(gradient.defined()) << name;
    EXPECT_TRUE(gradient.isfinite().all().item<bool>()) << name;
  }
  EXPECT_GT(p[last].tensor.grad().abs().max().item<double>(), 0);
  EXPECT_EQ(p[last].tensor.abs().max().item<double>(), 0);
}

TEST_P(EinsumLinearTest, GradientsMatchFiniteDifferences) {
  const auto [spec, d_in, d_out] = GetParam();
  const auto module = layer(spec, d_in, d_out);
  shake(*module);
  torch::manual_seed(3);
  const torch::Tensor x = torch::randn({4, d_in});
  const torch::Tensor w = torch::randn({4, d_out}, torch::kFloat64);
  (module->forward(x) * w).sum().backward();
  const torch::NoGradGuard no_grad;
  for (const Parameter& parameter : module->trainable()) {
    // Along one random direction of each parameter, in float64.
    const torch::Tensor direction = torch::randn(parameter.tensor.sizes());
    const torch::Tensor saved = parameter.tensor.clone();
    const auto value = [&](double step) {
      parameter.tensor.copy_(saved + step * direction);
      const double result = (reference(*module, x) * w).sum().item<double>();
      parameter.tensor.copy_(saved);
      return result;
    };
    const double step = 1e-2 * rms(saved) + 1e-3;
    const double numeric = (value(step) - value(-step)) / (2 * step);
    const double analytic =
        (parameter.tensor.grad() * direction).sum().item<double>();
    const double scale = parameter.tensor.grad().norm().item<double>() *
                         direction.norm().item<double>() /
                         std::sqrt(static_cast<double>(direction.numel()));
    EXPECT_NEAR(analytic, numeric, 0.01 * (scale + 1e-2)) << parameter.name;
  }
}

TEST(EinsumLinear, HasNoGainWhenToldSo) {
  const auto p = by_name(*layer("monarch", 64, 64, {.gain = false}));
  EXPECT_EQ(p.count("gain_a"), 0U);
  EXPECT_EQ(p.count("gain_b"), 0U);
}

TEST(EinsumLinear, CapHoldsTheCoresRms) {
  const auto module = layer("monarch", 64, 64, {.bias = false});
  auto p = by_name(*module);
  const torch::Tensor before = module->merge().detach();
  {
    const torch::NoGradGuard no_grad;
    p["core_a"].tensor.mul_(100);
    p["core_b"].tensor.mul_(100);
  }
  // Initial cores sit at the cap to within their sampling error.
  const torch::Tensor after = module->merge().detach();
  EXPECT_NEAR(rms(after) / rms(before), 1, 0.2);
}

TEST(EinsumLinear, BaseWidthScalesTheRate) {
  for (const char* spec : {"dense", "monarch"}) {
    const auto at_768 = layer(spec, 64, 64)->trainable();
    const auto at_64 = layer(spec, 64, 64, {.base_width = 64})->trainable();
    EXPECT_DOUBLE_EQ(
        at_768[0].rule.lr_multiplier, 12 * at_64[0].rule.lr_multiplier);
  }
}

TEST(EinsumLinear, SameSeedSameWeights) {
  const auto first = layer("btt:0.25", 64, 64)->trainable();
  const auto second = layer("btt:0.25", 64, 64)->trainable();
  for (std::size_t i = 0; i < first.size(); ++i) {
    EXPECT_TRUE(first[i].tensor.equal(second[i].tensor)) << first[i].name;
  }
}

// By the kernels and by the merged matrix; parameters that change are seen.
TEST(EinsumLinearInference, FollowsTheParameters) {
  const auto module = layer("btt:0.25", 36, 64);
  const torch::Tensor x = torch::randn({5, 36});
  const auto plain = [&] {
    module->set_inference(false);
    return module->forward(x).detach();
  };
  for (const std::string kernel : {"", "merged"}) {
    const ops::ForcedKernel forced(kernel);
    const auto check = [&](const char* what) {
      const torch::NoGradGuard no_grad;
      for (int repeat = 0; repeat < 2; ++repeat) {
        const torch::Tensor y = module->forward(x);
        const torch::Tensor expected = reference(*module, x);
        EXPECT_TRUE(torch::allclose(
            y.to(torch::kFloat64), expected, /*rtol=*/1e-4, /*atol=*/1e-5))
            << kernel << " " << what;
      }
    };
    module->set_inference(true);
    check("at first");
    for (const char* name : {"core_a", "core_b", "gain_a", "gain_b", "bias"}) {
      const torch::NoGradGuard no_grad;
      by_name(*module)[name].tensor.mul_(1.5).add_(0.1);
      check(name);
    }
  }
  EXPECT_TRUE(torch::allclose(
      plain(),
      reference(*module, x).to(x.dtype()),
      /*rtol=*/1e-4,
      /*atol=*/1e-5));
}

TEST(EinsumLinearInference, LeavesGradientsAlone) {
  const auto module = layer("monarch", 36, 64);
  const torch::Tensor x = torch::randn({5, 36});
  module->set_inference(true);
  const torch::Tensor y = module->forward(x);
  EXPECT_TRUE(y.requires_grad());
}

TEST(EinsumLinearInference, KeepsWhatItPreparedInTheDtypeOfAutocast) {
  const auto module = layer("monarch", 64, 64);
  const torch::Tensor x = torch::randn({5, 64});
  const torch::NoGradGuard no_grad;
  module->set_inference(true);
  at::autocast::set_autocast_enabled(torch::kCPU, true);
  at::autocast::set_autocast_dtype(torch::kCPU, torch::kBFloat16);
  const torch::Tensor half = module->forward(x);
  at::autocast::set_autocast_enabled(torch::kCPU, false);
  const torch::Tensor full = module->forward(x);
  EXPECT_EQ(half.scalar_type(), torch::kBFloat16);
  EXPECT_EQ(full.scalar_type(), torch::kFloat32);
  EXPECT_TRUE(torch::allclose(half.to(torch::kFloat32), full, 0.05, 0.05));
}

TEST(EinsumLinearInference, IsSetForAWholeNetwork) {
  const auto network = std::make_shared<torch::nn::Module>("network");
  const auto module = layer("low_rank", 36, 64);
  network->register_module("layer", module);
  set_inference(*network, true);
  // So few tokens it takes in inference alone.
  const ops::ForcedKernel forced("merged");
  const torch::NoGradGuard no_grad;
  EXPECT_NO_THROW(module->forward(torch::randn({2, 36})));
  set_inference(*network, false);
  EXPECT_THROW(module->forward(torch::randn({2, 36})), c10::Error);
}

}  // namespace
}  // namespace einforge::nn
