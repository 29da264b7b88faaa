#include "einforge/train/trainer.h"

#include <gtest/gtest.h>
#include <torch/cuda.h>
#include <torch/types.h>

#include <cmath>
#include <string>
#include <vector>

#include "einforge/base/error.h"
#include "einforge/base/files.h"
#include "einforge/base/safetensors.h"
#include "einforge/base/text.h"
#include "einforge/train/load_model.h"
#include "tests/base/test_name.h"
#include "tests/train/trainer_fixture.h"
#ifdef EINFORGE_HAVE_CUDA
#include <c10/cuda/CUDAFunctions.h>
#endif

namespace einforge::train {
namespace {

TEST_F(TrainerTest, LogsCurvesAndCheckpoints) {
  TrainOptions o = options("run");
  std::vector<store::CurvePoint> points;
  std::int64_t steps_seen = 0;
  o.on_point = [&](const store::CurvePoint& p) { points.push_back(p); };
  o.on_step = [&](std::int64_t step, double) { steps_seen = step; };
  const TrainConfig c = config();
  const TrainResult result = train(c, o);
  EXPECT_EQ(result.outcome, Outcome::kFinished);
  EXPECT_EQ(result.steps, 23);
  EXPECT_EQ(steps_seen, 23);
  ASSERT_EQ(points.size(), 4U);  // 0, 10, 20 and the last
  EXPECT_EQ(points[0].step, 0);
  EXPECT_TRUE(std::isnan(points[0].train_loss));
  EXPECT_NEAR(points[0].val_loss, std::log(96.0), 1e-5);
  EXPECT_EQ(points[1].step, 10);
  EXPECT_EQ(points[3].step, 23);
  EXPECT_EQ(points[3].tokens, 23 * 64);
  EXPECT_DOUBLE_EQ(points[3].flops, summarise(c).flops_per_token * 23 * 64);
  EXPECT_EQ(points[3].val_loss, result.final_loss);
  EXPECT_LT(result.final_loss, points[0].val_loss);
  std::vector<std::int64_t> logged;
  for (const base::Json& row : log("run")) {
    logged.push_back(row["step"]);
  }
  EXPECT_EQ(logged, (std::vector<std::int64_t>{0, 4, 8, 10, 12, 16, 20, 23}));
  EXPECT_TRUE(fs::exists(root_ / "run/checkpoints/step_00000023"));
  EXPECT_TRUE(fs::exists(root_ / "run/checkpoints/step_00000021"));
  EXPECT_FALSE(fs::exists(root_ / "run/checkpoints/step_00000014"));
}

TEST_F(TrainerTest, SummaryCountsWhatIsTrained) {
  const TrainConfig c = config("btt:0.25");
  train(c, options("run"));
  const auto file = base::MappedFile(
      root_ / "run/checkpoints/step_00000023/model.safetensors");
  std::int64_t parameters = 0;
  for (const auto& t : base::parse_safetensors(file.bytes()).tensors) {
    parameters += static_cast<std::int64_t>(t.data.size()) / 4;
  }
  EXPECT_EQ(summarise(c).parameters, parameters);
}

TEST_F(TrainerTest, LogsTheHealthOfRouters) {
  TrainConfig c = config("btt_moe:E=4,k=2");
  c.model.moe.router.bias_rate = 0.01;
  c.data.batch_size = 8;
  const TrainResult result = train(c, options("run"));
  EXPECT_EQ(result.outcome, Outcome::kFinished);
  const auto rows = log("run");
  EXPECT_FALSE(rows[0].contains("routers"));  // of step 0
  const std::vector<std::string> layers = {
      "blocks_0.attention.q",
      "blocks_0.attention.k",
      "blocks_0.attention.v",
      "blocks_0.attention.out",
      "blocks_0.ffn_in",
      "blocks_0.ffn_out"};
  for (std::size_t i = 1; i < rows.size(); ++i) {
    const base::Json& routers = rows[i]["routers"];
    ASSERT_EQ(routers.size(), 6U);
    for (std::size_t r = 0; r < routers.size(); ++r) {
      EXPECT_EQ(routers[r]["layer"], layers[r]);
      std::int64_t sum = 0;
      for (const std::int64_t tokens : routers[r]["tokens"]) {
        sum += tokens;
      }
      EXPECT_EQ(sum, 8 * 16 * 2);  // every token twice
      EXPECT_GE(routers[r]["token_entropy"], 0);
      EXPECT_LE(routers[r]["aggregate_entropy"], std::log(4.0) + 1e-9);
    }
  }
  EXPECT_EQ(result.routers["step"], 23);
  EXPECT_EQ(result.routers["layers"], rows.back()["routers"]);
  // The balancing bias is part of the model.
  const auto file = base::MappedFile(
      root_ / "run/checkpoints/step_00000023/model.safetensors");
  int biases = 0;
  for (const auto& t : base::parse_safetensors(file.bytes()).tensors) {
    biases += t.name.ends_with(".router.bias");
  }
  EXPECT_EQ(biases, 6);
  const LoadedModel loaded = load_model(root_ / "run");
  EXPECT_FALSE(loaded.model->is_training());

  const CommandResult events = run_python(
      root_ / "",
      fmt::format(
          R"(
from tensorboard.backend.event_processing import event_accumulator
log = event_accumulator.EventAccumulator(r"{}")
log.Reload()
tags = log.Tags()["scalars"]
for what in ["token_entropy", "aggregate_entropy", "balance_loss", "z_loss",
             "dead", "largest_share"]:
    assert "router/blocks_0.ffn_in/" + what in tags, tags
for step in range(len(log.Scalars("router_tokens/blocks_0.ffn_in/0"))):
    assert sum(log.Scalars("router_tokens/blocks_0.ffn_in/" + str(e))[step].value
               for e in range(4)) == 256
print("fine")
)",
          (root_ / "run").string()));
  EXPECT_EQ(events.code, 0) << events.output;

  EXPECT_TRUE(train(config(), options("plain")).routers.is_null());
  EXPECT_FALSE(log("plain").back().contains("routers"));
}

// At a rate that float32 takes for 0 nothing moves the router from zero: the
// first expert takes all.
TEST_F(TrainerTest, ACollapsedRouterIsNamed) {
  TrainConfig c = config("dense");
  c.optimizer.learning_rate = 1e-300;
  c.model.structure.v = "btt_moe:E=4,k=1";
  c.model.moe.router = {.balance_weight = 0, .z_weight = 0};
  TrainOptions o = options("run");
  o.stop_at_step = 10;
  testing::internal::CaptureStderr();
  train(c, o);
  const std::string first = testing::internal::GetCapturedStderr();
  const std::string dead =
      "router of blocks_0.attention.v: experts 1, 2, 3 took none of 64 tokens";
  const std::string overloaded =
      "router of blocks_0.attention.v: expert 0 took 100% of 64 tokens";
  for (const std::string& what : {dead, overloaded}) {
    const std::string line =
        "einforge: warning: " + what + " at step 8, since step 4\n";
    const auto at = first.find(line);
    ASSERT_NE(at, std::string::npos) << first;
    EXPECT_EQ(first.find(what, at + line.size()), std::string::npos);
  }
  // Once, also when resumed.
  o.resume = true;
  o.stop_at_step = -1;
  testing::internal::CaptureStderr();
  const TrainResult result = train(c, o);
  EXPECT_EQ(
      testing::internal::GetCapturedStderr().find("router of"),
      std::string::npos);
  // But each row of the log after the warm-up has them.
  for (const base::Json& row : log("run")) {
    if (row["step"] == 0) {
      EXPECT_FALSE(row.contains("warnings"));
    } else {
      EXPECT_EQ(row["warnings"], base::Json({dead, overloaded}));
    }
  }
  const base::Json& warnings = result.routers["warnings"];
  ASSERT_EQ(warnings.size(), 2U);
  EXPECT_EQ(warnings[0]["layer"], "blocks_0.attention.v");
  EXPECT_EQ(warnings[0]["kind"], "dead");
  EXPECT_EQ(warnings[0]["since"], 4);
  EXPECT_EQ(warnings[0]["step"], 20);  // the last that is due
  EXPECT_EQ(warnings[0]["message"], dead + " at step 20, since step 4");
  EXPECT_EQ(warnings[0]["experts"], base::Json({1, 2, 3}));
  EXPECT_EQ(warnings[1]["kind"], "overloaded");
}

#ifdef EINFORGE_HAVE_CUDA
// Torch refuses to wait for the GPU while it is told to.
void allow_waiting(bool allow) {
  c10::cuda::warning_state().set_sync_debug_mode(
      allow ? c10::cuda::SyncDebugMode::L_DISABLED
            : c10::cuda::SyncDebugMode::L_ERROR);
}

TEST_F(TrainerTest, DoesNotWaitForTheGpuBetweenLogs) {
  if (!torch::cuda::is_available()) {
    GTEST_SKIP() << "no GPU";
  }
  const torch::Tensor one = torch::ones({}, torch::kCUDA);
  allow_waiting(false);
  EXPECT_THROW(one.item<float>(), c10::Error);
  allow_waiting(true);
  for (const char* structure :
       {"dense", "monarch", "ffn_moe:E=4", "btt_moe:E=4"}) {
    TrainConfig c = config(structure);
    c.model.width = 64;
    c.device = "cuda";
    c.dtype = "bfloat16";
    c.steps = 16;
    c.log_every = 8;
    c.eval_every = c.checkpoint_every = 0;
    TrainOptions o = options(structure);
    o.on_step = [](std::int64_t step, double) {
      allow_waiting(step < 3 || step % 8 == 7);
    };
    EXPECT_NO_THROW(train(c, o)) << structure;
    allow_waiting(true);
  }
}
#endif

TEST_F(TrainerTest, UnwritableFolderIsAnIoError) {
  TrainOptions o;
  o.progress = false;
  o.directory = "/proc/einforge";
  EXPECT_THROW(train(config(), o), base::IoError);
}

TEST_F(TrainerTest, LearnsTheRegressionTask) {
  TrainConfig c;
  c.model.kind = "mlp";
  c.model.width = 64;
  c.model.layers = 2;
  c.model.structure.all = "monarch";
  c.data.batch_size = 64;
  c.optimizer.base_width = 64;
  c.steps = 40;
  c.eval_every = 20;
  c.eval_batches = 4;
  c.device = "cpu";
  const TrainResult result = train(c, options("run"));
  EXPECT_EQ(result.outcome, Outcome::kFinished);
  // Silence has a loss of about 1.
  EXPECT_LT(result.final_loss, 0.9);
}

TEST_F(TrainerTest, BfloatAutocastTrains) {
  TrainConfig c = config();
  c.dtype = "bfloat16";
  const double bfloat = train(c, options("bfloat")).final_loss;
  const double full = train(config(), options("full")).final_loss;
  EXPECT_NE(bfloat, full);
  EXPECT_NEAR(bfloat, full, 0.05);
}

struct Bad {
  std::string name;
  std::function<void(TrainConfig&)> spoil;
};

void PrintTo(const Bad& bad, std::ostream* out) {
  *out << bad.name;
}

class BadConfigTest : public testing::TestWithParam<Bad> {};

INSTANTIATE_TEST_SUITE_P(
    Keys,
    BadConfigTest,
    testing::Values(
        Bad{"data.path", [](auto& c) { c.data.path = ""; }},
        Bad{"data.batch_size", [](auto& c) { c.data.batch_size = 0; }},
        Bad{"optimizer.learning_rate",
            [](auto& c) { c.optimizer.learning_rate = -1; }},
        Bad{"optimizer.base_width",
            [](auto& c) { c.optimizer.base_width = 0; }},
        Bad{"optimizer.beta1", [](auto& c) { c.optimizer.beta1 = 1; }},
        Bad{"optimizer.beta2", [](auto& c) { c.optimizer.beta2 = -0.1; }},
        Bad{"optimizer.epsilon", [](auto& c) { c.optimizer.epsilon = 0; }},
        Bad{"optimizer.weight_decay",
            [](auto& c) { c.optimizer.weight_decay = NAN; }},
        Bad{"optimizer.clip_norm", [](auto& c) { c.optimizer.clip_norm = -1; }},
        Bad{"optimizer.accumulate",
            [](auto& c) { c.optimizer.accumulate = 0; }},
        Bad{"schedule.kind", [](auto& c) { c.schedule.kind = "cosin"; }},
        Bad{"schedule.warmup_steps",
            [](auto& c) { c.schedule.warmup_steps = -2; }},
        Bad{"schedule.decay_share",
            [](auto& c) { c.schedule.decay_share = 1.5; }},
        Bad{"schedule.final_ratio",
            [](auto& c) { c.schedule.final_ratio = -1; }},
        Bad{"steps", [](auto& c) { c.steps = 0; }},
        Bad{"log_every", [](auto& c) { c.log_every = 0; }},
        Bad{"eval_every", [](auto& c) { c.eval_every = -1; }},
        Bad{"eval_batches", [](auto& c) { c.eval_batches = 0; }},
        Bad{"checkpoint_every", [](auto& c) { c.checkpoint_every = -2; }},
        Bad{"keep_checkpoints", [](auto& c) { c.keep_checkpoints = 0; }},
        Bad{"device", [](auto& c) { c.device = "gpu"; }},
        Bad{"dtype", [](auto& c) { c.dtype = "fp8"; }}),
    base::testing::TestName());

TEST_P(BadConfigTest, NamesTheKey) {
  TrainConfig c;
  c.model.kind = "gpt";
  GetParam().spoil(c);
  try {
    summarise(c);
    FAIL() << "expected an error";
  } catch (const base::InvalidInput& error) {
    const std::string message = error.what();
    EXPECT_EQ(message.rfind(GetParam().name + ": expected", 0), 0U) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  }
}

}  // namespace
}  // namespace einforge::train
