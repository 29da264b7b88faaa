// A model whose head has a prime number of outputs.
#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

#include "einforge/base/error.h"
#include "einforge/models/model.h"

namespace einforge::models {
namespace {

TEST(Padding, AStructuredHeadTakesAnyVocabularyWhenAsked) {
  constexpr std::int64_t kVocabulary = 97;
  ModelConfig config;
  config.width = 64;
  config.layers = 1;
  config.context = 8;
  config.head_width = 16;
  config.structure.all = "monarch:pad";  // fits: nothing is padded
  config.structure.head = "monarch";
  EXPECT_THROW(plan(config, 0, kVocabulary), base::InvalidInput);
  config.structure.head = "monarch:pad";
  const ModelPlan planned = plan(config, 0, kVocabulary);
  EXPECT_EQ(planned.linear("head").structure.d_out, kVocabulary);
  EXPECT_EQ(planned.linear("head").structure.sizes.d_out(), 104);
  EXPECT_EQ(planned.linear("q").structure.sizes.d_out(), 64);

  const auto model = make_model(config, 0, kVocabulary, 768, 0);
  std::int64_t counted = 0;
  for (const torch::Tensor& parameter : model->parameters()) {
    counted += parameter.numel();
  }
  EXPECT_EQ(planned.parameters(), counted);
  torch::manual_seed(0);
  const torch::Tensor x = torch::randint(kVocabulary, {2, 8}, torch::kInt64);
  const torch::Tensor y = model->forward(x);
  EXPECT_EQ(y.size(-1), kVocabulary);
  model->loss(x, x).backward();
  for (const nn::Parameter& parameter : model->trainable()) {
    EXPECT_TRUE(parameter.tensor.grad().defined()) << parameter.name;
  }
}

}  // namespace
}  // namespace einforge::models
