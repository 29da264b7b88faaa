#include "einforge/models/plan.h"

#include <ATen/record_function.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <atomic>
#include <map>
#include <string>

#include "einforge/base/error.h"
#include "einforge/models/model.h"
#include "tests/base/test_name.h"

namespace einforge::models {
namespace {

constexpr std::int64_t kVocabulary = 96;

ModelConfig gpt(const std::string& structure) {
  ModelConfig config;
  config.width = 64;
  config.layers = 2;
  config.context = 16;
  config.head_width = 16;
  config.structure.all = structure;
  return config;
}

std::int64_t counted(const Model& model) {
  std::int64_t count = 0;
  for (const torch::Tensor& parameter : model.parameters()) {
    count += parameter.numel();
  }
  return count;
}

class PlanTest : public testing::TestWithParam<std::string> {};

INSTANTIATE_TEST_SUITE_P(
    Structures,
    PlanTest,
    testing::Values(
        "dense",
        "low_rank:0.5",
        "kronecker",
        "tensor_train:0.25",
        "monarch",
        "btt:0.25",
        "theta:0.5,0.25,0.25,0.25,0.5,0.25,0.25"),
    base::testing::TestName());

TEST_P(PlanTest, GptHasThePlannedParameters) {
  const ModelConfig config = gpt(GetParam());
  const auto model = make_model(config, 0, kVocabulary, 768, 0);
  EXPECT_EQ(plan(config, 0, kVocabulary).parameters(), counted(*model));
}

TEST_P(PlanTest, MlpHasThePlannedParameters) {
  ModelConfig config;
  config.kind = "mlp";
  config.width = 64;
  config.structure.all = GetParam();
  const auto model = make_model(config, 8, 1, 768, 0);
  EXPECT_EQ(plan(config, 8, 1).parameters(), counted(*model));
}

// The MACs that Torch's matmuls really do, seen from outside by recording
// their arguments.
std::atomic<std::int64_t> matmul_macs = 0;

std::unique_ptr<at::ObserverContext> record(const at::RecordFunction& f) {
  static const std::map<std::string, int> first = {
      {"aten::mm", 0}, {"aten::addmm", 1}, {"aten::bmm", 0}};
  const auto found = first.find(f.name());
  if (found != first.end()) {
    const auto index = static_cast<std::size_t>(found->second);
    const torch::Tensor a = f.inputs()[index].toTensor();
    const torch::Tensor b = f.inputs()[index + 1].toTensor();
    matmul_macs += a.numel() * b.size(-1);
  }
  return nullptr;
}

std::int64_t macs_of(const std::function<void()>& work) {
  matmul_macs = 0;
  const auto handle = at::addGlobalCallback(
      at::RecordFunctionCallback(record).needsInputs(true).scopes(
          {at::RecordScope::FUNCTION}));
  work();
  at::removeCallback(handle);
  return matmul_macs;
}

TEST(Plan, DenseGptCostsWhatItsMatmulsDo) {
  const ModelConfig config = gpt("dense");
  const auto model = make_model(config, 0, kVocabulary, 768, 0);
  const std::int64_t batch = 3;
  const torch::Tensor x =
      torch::randint(kVocabulary, {batch, config.context}, torch::kInt64);
  torch::Tensor loss;
  const std::int64_t forward = macs_of([&] { loss = model->loss(x, x); });
  const std::int64_t backward = macs_of([&] { loss.backward(); });
  const ModelPlan planned = plan(config, 0, kVocabulary);
  const std::int64_t tokens = batch * config.context;
  // Attention is one fused operation here, so its share is checked below.
  EXPECT_EQ(forward, tokens * (planned.macs() - planned.attention_macs));
  EXPECT_EQ(backward, 2 * forward);
  EXPECT_DOUBLE_EQ(planned.flops(), 6.0 * static_cast<double>(planned.macs()));
}

TEST(Plan, AttentionCostsWhatItsLoopsDo) {
  const ModelConfig config = gpt("dense");
  std::int64_t macs = 0;
  for (std::int64_t layer = 0; layer < config.layers; ++layer) {
    for (std::int64_t i = 0; i < config.context; ++i) {
      for (std::int64_t j = 0; j <= i; ++j) {
        macs += 2 * config.width;  // q k, and weight times v
      }
    }
  }
  EXPECT_EQ(plan(config, 0, kVocabulary).attention_macs * config.context, macs);
}

TEST(Plan, EachKindOfLayerHasItsStructure) {
  ModelConfig config = gpt("monarch");
  config.structure.ffn_in = "low_rank:0.5";
  config.structure.head = "btt:0.25";
  const ModelPlan planned = plan(config, 0, kVocabulary);
  EXPECT_EQ(planned.linear("q").structure.spec.family, "monarch");
  EXPECT_EQ(planned.linear("ffn_in").structure.spec.family, "low_rank");
  EXPECT_EQ(planned.linear("ffn_out").structure.spec.family, "monarch");
  EXPECT_EQ(planned.linear("head").structure.spec.family, "btt");
  EXPECT_FALSE(planned.linear("q").gamma);
  EXPECT_FALSE(planned.linear("k").gamma);
  EXPECT_TRUE(planned.linear("v").gamma);
  EXPECT_TRUE(planned.linear("ffn_out").zero);
  EXPECT_TRUE(planned.linear("attention_out").zero);
  EXPECT_TRUE(planned.linear("head").zero);
  EXPECT_FALSE(planned.linear("ffn_in").zero);
}

struct Bad {
  std::string name;
  std::function<void(ModelConfig&)> spoil;
  std::string expected;
};

void PrintTo(const Bad& bad, std::ostream* out) {
  *out << bad.name;
}

class BadModelTest : public testing::TestWithParam<Bad> {};

INSTANTIATE_TEST_SUITE_P(
    Configs,
    BadModelTest,
    testing::Values(
        Bad{"kind", [](auto& c) { c.kind = "gtp"; }, "model.kind"},
        Bad{"width", [](auto& c) { c.width = 0; }, "model.width"},
        Bad{"heads", [](auto& c) { c.width = 72; }, "model.width"},
        Bad{"layers", [](auto& c) { c.layers = -1; }, "model.layers"},
        Bad{"context", [](auto& c) { c.context = 0; }, "model.context"},
        Bad{"head_width",
            [](auto& c) { c.head_width = 0; },
            "model.head_width"},
        Bad{"ffn", [](auto& c) { c.ffn_multiple = 0; }, "model.ffn_multiple"},
        Bad{"unknown",
            [](auto& c) { c.structure.all = "monarhc"; },
            "model.structure.all: "},
        Bad{"one",
            [](auto& c) { c.structure.v = "btt:7"; },
            "model.structure.v: "},
        Bad{"prime",
            [](auto& c) {
              c.width = 61;
              c.head_width = 61;
            },
            "model.structure.all: "},
        Bad{"mlp",
            [](auto& c) {
              c.kind = "mlp";
              c.structure.ffn_in = "dense";
            },
            "model.structure.ffn_in"}),
    base::testing::TestName());

TEST_P(BadModelTest, SaysWhichKey) {
  ModelConfig config = gpt("monarch");
  GetParam().spoil(config);
  try {
    plan(config, 8, kVocabulary);
    FAIL() << "expected an error";
  } catch (const base::InvalidInput& error) {
    const std::string message = error.what();
    EXPECT_EQ(message.rfind(GetParam().expected, 0), 0U) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  }
}

}  // namespace
}  // namespace einforge::models
