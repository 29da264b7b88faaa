#include "einforge/nn/attention.h"

#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <cmath>
#include <map>
#include <string>

#include "einforge/nn/einsum_linear.h"
#include "tests/base/test_name.h"

namespace einforge::nn {
namespace {

std::shared_ptr<EinsumLinear> square(
    const std::string& spec, std::int64_t width, const at::Generator& g) {
  return std::make_shared<EinsumLinear>(
      structure::realise(structure::parse(spec), width, width),
      EinsumLinearOptions{},
      g);
}

class AttentionTest : public testing::TestWithParam<std::string> {};

INSTANTIATE_TEST_SUITE_P(
    Structures,
    AttentionTest,
    testing::Values("dense", "monarch"),
    base::testing::TestName());

// Softmax attention written out with loops over heads and places in float64.
TEST_P(AttentionTest, MatchesLoopsInFloat64) {
  constexpr std::int64_t kWidth = 64;
  constexpr std::int64_t kHead = 16;
  constexpr std::int64_t kTime = 7;
  const at::Generator g = at::detail::createCPUGenerator(0);
  auto q = square(GetParam(), kWidth, g);
  auto k = square(GetParam(), kWidth, g);
  auto v = square(GetParam(), kWidth, g);
  auto out = square(GetParam(), kWidth, g);
  Attention attention(kHead, q, k, v, out);
  {
    const torch::NoGradGuard no_grad;
    for (const Parameter& p : attention.trainable()) {
      if (p.name.ends_with("gain")) {
        p.tensor.copy_(torch::linspace(0.5, 2, kHead));
      }
    }
  }
  torch::manual_seed(0);
  const torch::Tensor x = torch::randn({1, kTime, kWidth});

  const auto normed = [](torch::Tensor t) {  // (head width)
    const torch::Tensor centred = t - t.mean();
    return centred / (centred.square().mean() + 1e-5).sqrt() *
           torch::linspace(0.5, 2, kHead);
  };
  const auto features = [&](EinsumLinear& layer) {
    return layer.forward(x)[0].detach().to(torch::kFloat64);
  };
  const torch::Tensor queries = features(*q);
  const torch::Tensor keys = features(*k);
  const torch::Tensor values = features(*v);
  torch::Tensor mixed = torch::zeros({kTime, kWidth}, torch::kFloat64);
  for (std::int64_t h = 0; h < kWidth; h += kHead) {
    for (std::int64_t i = 0; i < kTime; ++i) {
      const torch::Tensor query = normed(queries[i].narrow(0, h, kHead));
      double total = 0;
      torch::Tensor sum = torch::zeros({kHead}, torch::kFloat64);
      for (std::int64_t j = 0; j <= i; ++j) {
        const double score =
            query.dot(normed(keys[j].narrow(0, h, kHead))).item<double>();
        const double weight = std::exp(score * 8 / kHead);
        total += weight;
        sum += weight * values[j].narrow(0, h, kHead);
      }
      mixed[i].narrow(0, h, kHead).copy_(sum / total);
    }
  }
  const torch::Tensor expected = out->forward(mixed.to(torch::kFloat32));
  const torch::Tensor y = attention.forward(x)[0];
  EXPECT_LT((y - expected).abs().max().item<double>(), 1e-5);
}

TEST(Attention, DoesNotLookAhead) {
  const at::Generator g = at::detail::createCPUGenerator(0);
  Attention attention(
      16,
      square("monarch", 64, g),
      square("monarch", 64, g),
      square("monarch", 64, g),
      square("monarch", 64, g));
  const torch::NoGradGuard no_grad;
  const torch::Tensor x = torch::randn({2, 9, 64});
  const torch::Tensor y = attention.forward(x);
  torch::Tensor changed = x.clone();
  changed.narrow(1, 5, 4).normal_();
  const torch::Tensor z = attention.forward(changed);
  EXPECT_LT((y - z).narrow(1, 0, 5).abs().max().item<double>(), 1e-6);
  EXPECT_GT((y - z).narrow(1, 5, 4).abs().max().item<double>(), 1e-2);
}

TEST(Layer, NamesParametersByTheirPlace) {
  const at::Generator g = at::detail::createCPUGenerator(0);
  Attention attention(
      16,
      square("dense", 64, g),
      square("monarch", 64, g),
      square("dense", 64, g),
      square("dense", 64, g));
  std::map<std::string, int> names;
  for (const Parameter& p : attention.trainable()) {
    ++names[p.name];
  }
  EXPECT_EQ(names.size(), attention.parameters().size());
  EXPECT_EQ(names.count("q.weight"), 1U);
  EXPECT_EQ(names.count("k.core_b"), 1U);
  EXPECT_EQ(names.count("k_norm.gain"), 1U);
}

}  // namespace
}  // namespace einforge::nn
