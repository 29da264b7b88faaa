#include "einforge/train/config.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "einforge/base/error.h"
#include "einforge/train/summary.h"
#include "tests/base/temporary_directory.h"

namespace einforge::train {
namespace {

TrainConfig read(const std::string& json) {
  TrainConfig config;
  base::update_from_json(config, base::Json::parse(json));
  return config;
}

// The paper's own numbers, for a text of 96 symbols.
TEST(TrainConfig, PaperPresetOfAGpt) {
  const TrainConfig c = read(R"({"preset": "paper"})");
  EXPECT_NO_THROW(c.validate());
  EXPECT_EQ(c.model.kind, "gpt");
  EXPECT_EQ(c.model.context, 128);
  EXPECT_EQ(c.model.head_width, 64);
  EXPECT_EQ(c.model.ffn_multiple, 4);
  EXPECT_FALSE(c.model.bias);
  EXPECT_EQ(c.model.embedding_std, 0.02);
  EXPECT_TRUE(c.model.rms_cap);
  EXPECT_EQ(c.model.moe.router.reduce, "mean");
  EXPECT_EQ(c.data.batch_size, 512);
  EXPECT_EQ(c.optimizer.learning_rate, 3e-3);
  EXPECT_EQ(c.optimizer.base_width, 768);
  EXPECT_EQ(c.optimizer.base_ffn_multiple, 1);
  EXPECT_EQ(c.optimizer.beta1, 0.9);
  EXPECT_EQ(c.optimizer.beta2, 0.95);
  EXPECT_EQ(c.optimizer.weight_decay, 0);
  EXPECT_EQ(c.optimizer.clip_norm, 1);
  EXPECT_EQ(c.schedule.kind, "constant");
  EXPECT_EQ(c.schedule.warmup(c.steps), 2000);
  EXPECT_EQ(c.steps, 100'000);
  EXPECT_EQ(c.flops, "paper");
}

TEST(TrainConfig, PaperPresetOfTheRegressionTask) {
  const TrainConfig c =
      read(R"({"preset": "paper", "model": {"kind": "residual_mlp"}})");
  EXPECT_NO_THROW(c.validate());
  EXPECT_EQ(c.model.layers, 3);
  EXPECT_EQ(c.model.ffn_multiple, 4);
  EXPECT_FALSE(c.model.rms_cap);
  EXPECT_EQ(c.data.batch_size, 4096);
  EXPECT_EQ(c.optimizer.learning_rate, 1e-3);
  EXPECT_EQ(c.optimizer.base_width, 64);
  EXPECT_EQ(c.optimizer.base_ffn_multiple, 4);
  EXPECT_EQ(c.schedule.kind, "cosine");
  EXPECT_EQ(c.schedule.warmup(c.steps), 0);
  EXPECT_EQ(c.schedule.final_ratio, 0);
  const data::TeacherShape teacher = teacher_shape(c);
  EXPECT_EQ(teacher.layers, 7);  // six hidden layers and the output
  EXPECT_EQ(teacher.width, 1024);
  EXPECT_EQ(teacher.inputs, 8);
  EXPECT_EQ(teacher.bias_std, 0);
}

// What is written beside the preset stays, before and after it.
TEST(TrainConfig, PresetOnlyChangesDefaults) {
  const TrainConfig c = read(R"({
      "steps": 10,
      "preset": "paper",
      "optimizer": {"learning_rate": 0.5},
      "model": {"bias": true, "width": 128}})");
  EXPECT_EQ(c.steps, 10);
  EXPECT_EQ(c.optimizer.learning_rate, 0.5);
  EXPECT_TRUE(c.model.bias);
  EXPECT_EQ(c.model.width, 128);
  EXPECT_EQ(c.data.batch_size, 512);
  // Through JSON and back, as config.json goes.
  TrainConfig again;
  base::update_from_json(again, base::to_json(c));
  EXPECT_EQ(again, c);
  EXPECT_EQ(read(R"({"preset": "none"})"), TrainConfig{});
  // What differs from the defaults is all that it takes, too.
  TrainConfig short_form;
  base::update_from_json(short_form, base::differences(c));
  EXPECT_EQ(short_form, c);
}

// Whatever the order of --set and of what the file says.
TEST(TrainConfig, PresetAsASetting) {
  const base::testing::TemporaryDirectory folder;
  const auto path = folder / "config.toml";
  std::ofstream(path) << "steps = 10\n[optimizer]\nlearning_rate = 0.5\n";
  const std::vector<std::string> settings = {
      "optimizer.clip_norm=7", "preset=paper", "model.kind=residual_mlp"};
  const auto c = base::read_config<TrainConfig>(path, settings);
  EXPECT_NO_THROW(c.validate());
  EXPECT_EQ(c.steps, 10);
  EXPECT_EQ(c.optimizer.learning_rate, 0.5);
  EXPECT_EQ(c.optimizer.clip_norm, 7);
  EXPECT_EQ(c.model.kind, "residual_mlp");
  EXPECT_EQ(c.data.batch_size, 4096);
  TrainConfig without_file;
  base::update_from_json(without_file, base::Json::object(), settings);
  EXPECT_NO_THROW(without_file.validate());
  EXPECT_EQ(without_file.data.batch_size, 4096);
  const std::vector<std::string> unknown = {"preset=papper"};
  EXPECT_THROW(
      base::read_config<TrainConfig>(path, unknown).validate(),
      base::InvalidInput);
}

TEST(TrainConfig, PresetThatIsNone) {
  EXPECT_THROW(read(R"({"preset": "papper"})").validate(), base::InvalidInput);
  EXPECT_THROW(read(R"({"preset": 3})"), base::InvalidInput);
  EXPECT_THROW(
      read(R"({"preset": "paper", "model": {"kind": "mlp"}})"),
      base::InvalidInput);
}

// examples/configs: GPT-2's 12 blocks of width 768, with an untied head.
TEST(TrainConfig, ConfigurationsOfGpt2) {
  const char* source = std::getenv("EINFORGE_SOURCE_DIR");
  ASSERT_NE(source, nullptr);
  TaskShape shape;
  shape.outputs = 50'304;
  std::int64_t dense = 0;
  for (const char* name :
       {"gpt2_124m", "gpt2_124m_monarch", "gpt2_124m_btt_moe"}) {
    const auto c = base::read_config<TrainConfig>(
        fmt::format("{}/examples/configs/{}.toml", source, name), {});
    EXPECT_NO_THROW(c.validate());
    EXPECT_EQ(c.model.context, 1024);
    const models::ModelPlan plan = plan_model(c, shape);
    if (dense == 0) {
      dense = plan.parameters();
      // What GPT-2 has, the gains of queries and keys, and the head.
      EXPECT_EQ(dense, 124'475'904 + 12 * 2 * 64 + 768 * 50'304);
    } else {
      EXPECT_LT(plan.parameters(), dense) << name;
    }
  }
}

TEST(Summary, PaperCountsTheWholeSquareOfAttention) {
  TrainConfig c;
  TaskShape shape;
  shape.outputs = 96;
  const auto macs = [&](const char* flops) {
    c.flops = flops;
    return plan_model(c, shape).macs();
  };
  // 128 places of which on average 64.5 are visible, twice a width of 256, in
  // three layers.
  EXPECT_EQ(macs("paper") - macs("causal"), 3 * 256 * (2 * 128 - 129));
}

TEST(Summary, AModelThatKnowsNothingHasAKnownLoss) {
  TrainConfig c;
  c.model.kind = "mlp";
  EXPECT_EQ(task_shape(c).untrained_loss, 1);
  EXPECT_EQ(task_shape(c).identity, (base::Json{{"teacher", 0}}));
  // Another function to learn is another task.
  c.data.teacher = "paper";
  EXPECT_NE(task_shape(c).identity, (base::Json{{"teacher", 0}}));
}

}  // namespace
}  // namespace einforge::train
