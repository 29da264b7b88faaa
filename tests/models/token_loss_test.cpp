#include "einforge/models/token_loss.h"

#include <ATen/autocast_mode.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <string>
#include <vector>

#include "einforge/models/linear.h"
#include "einforge/models/model.h"
#include "einforge/models/sample.h"

namespace einforge::models {
namespace {

using torch::Tensor;

constexpr std::int64_t kWidth = 24;
constexpr std::int64_t kVocabulary = 40;

// What the loss and the gradients of the hidden rows and of each parameter are.
struct Outcome {
  Tensor loss;
  std::vector<Tensor> gradients;
};

template <typename Loss>
Outcome outcome(nn::TokenLayer& head, const Tensor& x, const Loss& loss) {
  const Tensor hidden = x.detach().clone().requires_grad_();
  Outcome result{loss(hidden), {}};
  std::vector<Tensor> inputs = {hidden};
  for (const Tensor& parameter : head.parameters()) {
    inputs.push_back(parameter);
  }
  // Of three times the loss: what comes after it counts too.
  result.gradients = torch::autograd::grad({3 * result.loss}, inputs);
  return result;
}

std::shared_ptr<nn::TokenLayer> make_head(const std::string& structure) {
  ModelConfig config;
  config.width = kWidth;
  config.layers = 1;
  config.context = 8;
  config.head_width = 8;
  config.structure.all = structure;
  config.structure.head = structure;
  auto head = make_linear(
      plan(config, 0, kVocabulary, 768).linear("head"),
      config.moe,
      at::detail::createCPUGenerator(1));
  const torch::NoGradGuard no_grad;
  for (const Tensor& parameter : head->parameters()) {
    parameter.normal_(0, 0.5);  // heads start at zero
  }
  return head;
}

class TokenLossOf : public testing::TestWithParam<std::string> {};

// Against float64 and PyTorch's own loss of all logits, for chunks that do and
// do not divide the rows.
TEST_P(TokenLossOf, ChunksAreTheWhole) {
  torch::manual_seed(2);
  constexpr std::int64_t kRows = 23;
  const auto head = make_head(GetParam());
  const Tensor x = torch::randn({kRows, kWidth});
  const Tensor y = torch::randint(kVocabulary, {kRows}, torch::kInt64);
  head->to(torch::kFloat64);
  const Outcome expected =
      outcome(*head, x.to(torch::kFloat64), [&](const Tensor& hidden) {
        return torch::cross_entropy_loss(head->forward(hidden), y);
      });
  head->to(torch::kFloat32);
  for (const std::int64_t chunk : {1, 2, 7, 22, 23, 24, 100}) {
    const Outcome found = outcome(*head, x, [&](const Tensor& hidden) {
      return token_loss(*head, hidden, y, chunk);
    });
    EXPECT_TRUE(
        torch::allclose(found.loss.to(torch::kFloat64), expected.loss, 1e-6, 0))
        << chunk;
    ASSERT_EQ(found.gradients.size(), expected.gradients.size());
    for (std::size_t i = 0; i < found.gradients.size(); ++i) {
      EXPECT_TRUE(torch::allclose(
          found.gradients[i].to(torch::kFloat64),
          expected.gradients[i],
          1e-5,
          1e-6))
          << "chunk " << chunk << ", gradient " << i;
    }
    const torch::NoGradGuard no_grad;
    EXPECT_TRUE(torch::allclose(
        token_loss(*head, x, y, chunk).to(torch::kFloat64),
        expected.loss,
        1e-6,
        0))
        << chunk;
  }
}

// The weights that autocast keeps in bfloat16 are used by every chunk.
TEST(TokenLoss, OfAutocast) {
  torch::manual_seed(3);
  const auto head = make_head("dense");
  const Tensor x = torch::randn({40, kWidth});
  const Tensor y = torch::randint(kVocabulary, {40}, torch::kInt64);
  const auto at = [&](std::int64_t chunk) {
    at::autocast::set_autocast_enabled(at::kCPU, true);
    Outcome result = outcome(*head, x, [&](const Tensor& hidden) {
      return token_loss(*head, hidden, y, chunk);
    });
    at::autocast::clear_cache();
    at::autocast::set_autocast_enabled(at::kCPU, false);
    return result;
  };
  const Outcome whole = at(40);
  const Outcome chunks = at(16);
  EXPECT_NEAR(chunks.loss.item<double>(), whole.loss.item<double>(), 1e-5);
  for (std::size_t i = 0; i < whole.gradients.size(); ++i) {
    const double scale = whole.gradients[i].abs().max().item<double>();
    EXPECT_TRUE(torch::allclose(
        chunks.gradients[i], whole.gradients[i], 0, 0.02 * scale))
        << i;
    EXPECT_EQ(chunks.gradients[i].dtype(), whole.gradients[i].dtype());
  }
}

INSTANTIATE_TEST_SUITE_P(
    Heads,
    TokenLossOf,
    testing::Values("dense", "btt:0.25", "low_rank:0.5", "kronecker"));

}  // namespace
}  // namespace einforge::models
