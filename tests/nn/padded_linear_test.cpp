#include "einforge/nn/padded_linear.h"

#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

namespace einforge::nn {
namespace {

std::shared_ptr<PaddedLinear> layer(const char* text, bool bias) {
  const at::Generator generator = at::detail::createCPUGenerator(0);
  auto made = std::make_shared<PaddedLinear>(
      structure::realise(structure::parse(text), 61, 97),
      EinsumLinearOptions{.bias = bias},
      generator);
  const torch::NoGradGuard no_grad;
  torch::manual_seed(1);
  for (const Parameter& parameter : made->trainable()) {
    parameter.tensor.add_(torch::rand(parameter.tensor.sizes()), 0.1);
  }
  return made;
}

class PaddedLinearTest : public testing::TestWithParam<bool> {};

INSTANTIATE_TEST_SUITE_P(
    Bias, PaddedLinearTest, testing::Bool(), [](const auto& tested) {
      return std::string(tested.param ? "with" : "without");
    });

// The einsum over the padded widths in float64, with zeros put in and outputs
// left out by hand.
TEST_P(PaddedLinearTest, IsTheEinsumOfThePaddedInputCutOff) {
  const auto module = layer("btt:0.25,pad", GetParam());
  const auto n =
      structure::realise(structure::parse("btt:0.25,pad"), 61, 97).sizes;
  ASSERT_GT(n.d_in(), 61);
  ASSERT_GT(n.d_out(), 97);
  torch::manual_seed(2);
  const torch::Tensor x = torch::randn({5, 3, 61}).requires_grad_();
  const torch::Tensor y = module->forward(x);
  ASSERT_EQ(y.sizes(), (std::vector<std::int64_t>{5, 3, 97}));

  std::map<std::string, torch::Tensor> p;
  for (const Parameter& parameter : module->trainable()) {
    p[parameter.name] = parameter.tensor.detach().to(torch::kFloat64);
  }
  const auto cores = structure::parametrisation(structure::padded(
      structure::realise(structure::parse("btt:0.25,pad"), 61, 97)));
  const auto capped = [&](const char* core, const char* gain, double most) {
    const torch::Tensor m = p.at(core);
    const double rms = m.square().mean().sqrt().item<double>();
    return p.at(gain) * m / std::max(1.0, rms / most);
  };
  const torch::Tensor a =
      capped("inner.core_a", "inner.gain_a", cores[0].init_std);
  const torch::Tensor b =
      capped("inner.core_b", "inner.gain_b", cores[1].init_std);
  torch::Tensor wide = torch::zeros({5, 3, n.d_in()}, torch::kFloat64);
  wide.narrow(-1, 0, 61).copy_(x.detach());
  torch::Tensor expected =
      torch::einsum(
          "stabg,agdfr,bgefr->stdef",
          {wide.view({5, 3, n.alpha, n.beta, n.gamma}), a, b})
          .reshape({5, 3, n.d_out()})
          .narrow(-1, 0, 97);
  if (GetParam()) {
    expected = expected + p.at("bias");
  }
  EXPECT_TRUE(torch::allclose(y.to(torch::kFloat64), expected, 1e-4, 1e-4));

  // And its matrix, which a gradient goes back through.
  const torch::Tensor weight = module->merge();
  EXPECT_EQ(weight.sizes(), (std::vector<std::int64_t>{97, 61}));
  const torch::Tensor grad = torch::randn_like(y);
  y.backward(grad);
  EXPECT_TRUE(
      torch::allclose(x.grad(), torch::matmul(grad, weight), 1e-4, 1e-4));
  for (const Parameter& parameter : module->trainable()) {
    EXPECT_TRUE(parameter.tensor.grad().defined()) << parameter.name;
  }
}

}  // namespace
}  // namespace einforge::nn
