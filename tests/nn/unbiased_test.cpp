#include <gtest/gtest.h>
#include <torch/autograd.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <memory>
#include <string>

#include "einforge/nn/einsum_linear.h"
#include "einforge/nn/moe_linear.h"
#include "einforge/nn/observer.h"
#include "einforge/nn/padded_linear.h"
#include "tests/nn/testing.h"

namespace einforge::nn {
namespace {

std::shared_ptr<TokenLayer> layer(const std::string& spec, bool bias) {
  const EinsumLinearOptions options{.bias = bias};
  const bool is_padded = spec.ends_with("pad");
  const auto structure = structure::realise(
      structure::parse(spec), is_padded ? 61 : 64, is_padded ? 97 : 128);
  std::shared_ptr<TokenLayer> made;
  if (spec.starts_with("btt_moe")) {
    made = std::make_shared<MoeLinear>(
        structure::expert(structure),
        MoeOptions{.experts = 4, .active = 2},
        options,
        generator());
  } else if (is_padded) {
    made = std::make_shared<PaddedLinear>(structure, options, generator());
  } else {
    made = std::make_shared<EinsumLinear>(structure, options, generator());
  }
  const torch::NoGradGuard no_grad;
  torch::manual_seed(1);
  for (const Parameter& parameter : made->trainable()) {
    parameter.tensor.add_(torch::randn(parameter.tensor.sizes()), 0.1);
  }
  return made;
}

class UnbiasedTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override { torch::manual_seed(2); }
  torch::Tensor input() const {
    const bool is_padded = std::string(GetParam()).ends_with("pad");
    return torch::randn({3, 5, is_padded ? 61 : 64});
  }
};

INSTANTIATE_TEST_SUITE_P(
    Layers,
    UnbiasedTest,
    testing::Values("dense", "monarch", "btt:0.25,pad", "btt_moe:E=4,k=2"),
    [](const auto& tested) {
      const std::string spec = tested.param;
      return spec.substr(0, spec.find(':'));
    });

TEST_P(UnbiasedTest, WithItsBiasIsWhatTheLayerGives) {
  const auto module = layer(GetParam(), /*bias=*/true);
  const torch::Tensor x = input();
  const torch::Tensor expected = module->forward(x);
  const auto [y, bias] = module->forward_unbiased(x);
  ASSERT_TRUE(bias.defined());
  EXPECT_GT((y - expected).abs().max().item<double>(), 1e-3);
  EXPECT_TRUE(torch::allclose(y + bias, expected, 1e-5, 1e-5));
  // Gradients are those of the whole layer, the bias's too.
  const torch::Tensor grad = torch::randn_like(expected);
  const auto gradients = [&](const torch::Tensor& output) {
    return torch::autograd::grad({output}, module->parameters(), {grad});
  };
  const auto got = gradients(y + bias);
  const auto whole = gradients(expected);
  for (std::size_t i = 0; i < got.size(); ++i) {
    EXPECT_TRUE(torch::allclose(got[i], whole[i], 1e-4, 1e-4)) << i;
  }
}

TEST_P(UnbiasedTest, IsTheWholeWithoutABiasOrBesideAnObserver) {
  const torch::Tensor x = input();
  const auto plain = layer(GetParam(), /*bias=*/false);
  const auto [y, bias] = plain->forward_unbiased(x);
  EXPECT_FALSE(bias.defined());
  EXPECT_TRUE(torch::equal(y, plain->forward(x)));
  const auto module = layer(GetParam(), /*bias=*/true);
  torch::Tensor seen;
  const Observer observer([&](const Layer& of,
                              const torch::Tensor& /*x*/,
                              const torch::Tensor& gave) {
    if (&of == module.get()) {
      seen = gave;
    }
  });
  const ops::Unbiased given = module->forward_unbiased(x);
  const torch::Tensor whole = module->forward(x);
  EXPECT_TRUE(torch::equal(
      given.bias.defined() ? given.y + given.bias : given.y, whole));
  EXPECT_TRUE(!seen.defined() || torch::equal(seen, whole));
}

}  // namespace
}  // namespace einforge::nn
