#include "einforge/models/plan.h"

#include <ATen/record_function.h>
#include <gtest/gtest.h>
#include <torch/types.h>

#include <atomic>
#include <map>
#include <string>
#include <vector>

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
        "theta:0.5,0.25,0.25,0.25,0.5,0.25,0.25",
        "btt_moe:E=4,k=2",
        "btt_moe:E=4,k=2,rho=3",
        "low_rank_moe:E=3,k=1",
        "dense_moe:E=3,k=2"),
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

// Every way to have mixtures.
std::vector<ModelConfig> mixtures() {
  std::vector<ModelConfig> configs;
  for (const char* structure :
       {"btt_moe:E=4,k=2", "dense_moe:E=3,k=2", "ffn_moe:E=4,k=3"}) {
    for (const int options : {0, 1, 2, 3}) {
      ModelConfig config = gpt(structure);
      config.moe.shared_qkv_router = options % 2 == 1;
      config.moe.shared_expert = options >= 2;
      configs.push_back(config);
    }
  }
  ModelConfig mixed = gpt("monarch");
  mixed.structure.v = "dense_moe:E=2,k=1";
  mixed.structure.ffn_in = "ffn_moe:E=5,k=2";
  configs.push_back(mixed);
  return configs;
}

TEST(Plan, MixturesHaveThePlannedParameters) {
  for (const ModelConfig& config : mixtures()) {
    const auto model = make_model(config, 0, kVocabulary, 768, 0);
    EXPECT_EQ(plan(config, 0, kVocabulary).parameters(), counted(*model))
        << base::to_json(config);
  }
}

// Of dense experts, whose work is matmuls that can be seen from outside.
TEST(Plan, MixturesCostWhatTheirMatmulsDo) {
  int checked = 0;
  for (const ModelConfig& config : mixtures()) {
    if (config.structure.all.find("btt") != std::string::npos ||
        config.structure.all == "monarch") {
      continue;
    }
    const auto model = make_model(config, 0, kVocabulary, 768, 0);
    {
      // Spreads the tokens over the experts.
      const torch::NoGradGuard no_grad;
      for (const auto& p : model->trainable()) {
        if (p.name.ends_with("router.weight")) {
          p.tensor.normal_();
        }
      }
    }
    const std::int64_t batch = 3;
    const torch::Tensor x =
        torch::randint(kVocabulary, {batch, config.context}, torch::kInt64);
    torch::Tensor loss;
    const std::int64_t forward = macs_of([&] { loss = model->loss(x, x); });
    const std::int64_t backward = macs_of([&] { loss.backward(); });
    const ModelPlan planned = plan(config, 0, kVocabulary);
    EXPECT_EQ(
        forward,
        batch * config.context * (planned.macs() - planned.attention_macs))
        << base::to_json(config);
    EXPECT_EQ(backward, 2 * forward) << base::to_json(config);
    ++checked;
  }
  EXPECT_EQ(checked, 8);
}

// Of BTT experts, each a layer whose cost is checked elsewhere.
TEST(Plan, BttMoeCostsTwoExpertsAndARouterALayer) {
  const auto expert = [](std::int64_t d_in, std::int64_t d_out) {
    return structure::macs(
        structure::realise(structure::parse("btt:0"), d_in, d_out));
  };
  const ModelConfig config = gpt("btt_moe:E=4,k=2");
  const ModelPlan planned = plan(config, 0, kVocabulary);
  EXPECT_EQ(planned.linear("q").macs(), 2 * (2 * expert(64, 64) + 4 * 64));
  EXPECT_EQ(
      planned.linear("ffn_out").macs(), 2 * (2 * expert(256, 64) + 4 * 256));
  EXPECT_EQ(planned.linear("head").macs(), 64 * kVocabulary);
  EXPECT_LT(planned.macs(), plan(gpt("dense"), 0, kVocabulary).macs());
  ModelConfig shared = config;
  shared.moe.shared_qkv_router = true;
  // k and v of two blocks.
  EXPECT_EQ(
      plan(shared, 0, kVocabulary).macs(), planned.macs() - 2 * 2 * 4 * 64);
}

TEST(Plan, FfnMoeReplacesTheFfnAlone) {
  const ModelPlan everywhere = plan(gpt("ffn_moe:E=8,k=2"), 0, kVocabulary);
  for (const char* kind : {"q", "k", "v", "attention_out", "head"}) {
    EXPECT_EQ(everywhere.linear(kind).structure.spec.text, "dense");
  }
  EXPECT_TRUE(everywhere.ffn_moe());
  EXPECT_FALSE(plan(gpt("dense_moe:E=8,k=2"), 0, kVocabulary).ffn_moe());
  ModelConfig config = gpt("btt:0.25");
  config.structure.ffn_in = "ffn_moe:E=8,k=2";
  const ModelPlan named = plan(config, 0, kVocabulary);
  EXPECT_EQ(named.linear("ffn_out").structure.spec.text, "ffn_moe:E=8,k=2");
  EXPECT_EQ(named.linear("q").structure.spec.family, "btt");
  // By hand: a token passes 2 of 8 networks of 64 x 256, and a router.
  EXPECT_EQ(named.linear("ffn_in").macs(), 2 * (2 * 64 * 256 + 8 * 64));
  EXPECT_EQ(named.linear("ffn_out").macs(), 2 * (2 * 64 * 256));
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
  const ModelPlan planned = plan(config, 0, kVocabulary);
  EXPECT_EQ(planned.attention_macs * config.context, macs);
  // Without the mask, as the paper counts.
  EXPECT_EQ(
      planned.square_attention_macs,
      config.layers * config.context * 2 * config.width);
}

// The second FFN matrix of 256 inputs, in a model of width 64.
TEST(Plan, TheBaseModelHasAnFfnOfItsOwn) {
  for (const char* structure : {"dense", "ffn_moe:E=4,k=2"}) {
    for (const std::int64_t multiple : {1, 4}) {
      const ModelConfig config = gpt(structure);
      const BaseModel base(768, multiple);
      const ModelPlan planned = plan(config, 0, kVocabulary, base);
      EXPECT_EQ(planned.linear("ffn_in").base_width, 768);
      EXPECT_EQ(planned.linear("ffn_out").base_width, 768 * multiple);
      const std::string name = structure == std::string("dense")
                                   ? "blocks_0.ffn_out.weight"
                                   : "blocks_0.ffn.out";
      for (const nn::Parameter& p :
           make_model(config, 0, kVocabulary, base, 0)->trainable()) {
        if (p.name == name) {
          EXPECT_EQ(
              p.rule.lr_multiplier,
              768.0 * static_cast<double>(multiple) / 256);
        }
      }
    }
  }
}

TEST(Plan, CountsModelsWithoutBiasesAndCaps) {
  for (const char* structure : {"dense", "monarch", "btt_moe:E=4,k=2"}) {
    ModelConfig config = gpt(structure);
    config.bias = false;
    config.rms_cap = false;
    const auto model = make_model(config, 0, kVocabulary, 768, 0);
    EXPECT_EQ(plan(config, 0, kVocabulary).parameters(), counted(*model))
        << structure;
    for (const nn::Parameter& p : model->trainable()) {
      EXPECT_EQ(p.name.find("bias"), std::string::npos) << p.name;
      EXPECT_EQ(p.name.find("gain_"), std::string::npos) << p.name;
    }
  }
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
  EXPECT_FALSE(planned.linear("q").gain);
  EXPECT_FALSE(planned.linear("k").gain);
  EXPECT_TRUE(planned.linear("v").gain);
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
        Bad{"experts",
            [](auto& c) { c.structure.all = "btt_moe:E=2,k=3"; },
            "model.structure.all: btt_moe: expected k"},
        Bad{"moe_head",
            [](auto& c) { c.structure.head = "btt_moe:E=4,k=2"; },
            "model.structure.head: expected a structure without experts"},
        Bad{"ffn_moe_in_q",
            [](auto& c) { c.structure.q = "ffn_moe:E=4,k=2"; },
            "model.structure.q: expected a structure of one layer"},
        Bad{"half_an_ffn_moe",
            [](auto& c) {
              c.structure.ffn_in = "ffn_moe:E=4,k=2";
              c.structure.ffn_out = "dense";
            },
            "model.structure.ffn_out: expected what ffn_in has"},
        Bad{"other_half_of_an_ffn_moe",
            [](auto& c) { c.structure.ffn_out = "ffn_moe:E=4,k=2"; },
            "model.structure.ffn_out: expected what ffn_in has"},
        Bad{"ffn_moe_in_mlp",
            [](auto& c) {
              c.kind = "mlp";
              c.structure.all = "ffn_moe:E=4,k=2";
            },
            "model.structure.all: expected a structure of one layer"},
        Bad{"shared_router",
            [](auto& c) {
              c.moe.shared_qkv_router = true;
              c.structure.k = "btt_moe:E=4,k=2";
            },
            "model.moe.shared_qkv_router: expected q, k and v"},
        Bad{"jitter",
            [](auto& c) { c.moe.router.jitter = 2; },
            "model.moe.router: expected jitter"},
        Bad{"gates",
            [](auto& c) {
              c.structure.v = "btt_moe:E=4,k=1";
              c.moe.router.gates = "chosen";
            },
            "model.moe.router: expected gates all or auto"},
        Bad{"gates_word",
            [](auto& c) { c.moe.router.gates = "best"; },
            "model.moe.router: expected gates auto, chosen or all"},
        Bad{"reduce",
            [](auto& c) { c.moe.router.reduce = "max"; },
            "model.moe.router: expected reduce mean or sum"},
        Bad{"embedding_std",
            [](auto& c) { c.embedding_std = -1; },
            "model.embedding_std"},
        Bad{"residual_mlp",
            [](auto& c) {
              c.kind = "residual_mlp";
              c.structure.q = "dense";
            },
            "model.structure.q"},
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
