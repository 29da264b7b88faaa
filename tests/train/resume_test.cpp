// What docs/training.md promises of killed, stopped and refused runs.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <torch/cuda.h>
#include <torch/types.h>

#include <cmath>
#include <set>
#include <string>
#include <vector>

#include "einforge/base/error.h"
#include "einforge/base/random.h"
#include "tests/train/trainer_fixture.h"

namespace einforge::train {
namespace {

// Stopped at any step and resumed, a run ends in the same bits.
TEST_F(TrainerTest, ResumesBitwise) {
  for (const std::string structure :
       {"dense", "monarch", "btt_moe:E=4,k=2", "ffn_moe:E=4,k=2"}) {
    TrainConfig c = config(structure);
    // All that has a state of its own, or draws.
    c.model.moe.router.bias_rate = 0.01;
    c.model.moe.router.jitter = 0.1;
    c.optimizer.accumulate = 2;
    c.optimizer.weight_decay = 0.1;
    const std::string whole = "whole_" + structure;
    train(c, options(whole));
    for (const std::int64_t stop : {1, 9, 10, 14, 22}) {
      const std::string name = structure + std::to_string(stop);
      TrainOptions o = options(name);
      std::int64_t done = 0;
      o.on_step = [&](std::int64_t step, double) { done = step; };
      o.should_stop = [&] { return done == stop; };
      const TrainResult first = train(c, o);
      EXPECT_EQ(first.outcome, Outcome::kInterrupted);
      EXPECT_EQ(first.steps, stop);
      o.should_stop = nullptr;
      o.resume = true;
      const TrainResult second = train(c, o);
      EXPECT_EQ(second.outcome, Outcome::kFinished);
      EXPECT_EQ(weights(name), weights(whole)) << name;
      EXPECT_EQ(log(name), log(whole)) << name;
    }
  }
}

#ifdef EINFORGE_HAVE_CUDA
// On a GPU, at widths, heads and contexts that nobody chose: several of torch's
// operators have gradients there whose order of sums depends on sizes. Few
// cases and no large widths, since kernels of each are compiled and measured.
TEST_F(TrainerTest, ResumesBitwiseOnTheGpu) {
  if (!torch::cuda::is_available()) {
    GTEST_SKIP() << "no GPU";
  }
  base::Random random(11);
  const auto one_of = [&](const auto& list) {
    return list[random.below(list.size())];
  };
  const std::vector<std::string> structures{
      "dense", "monarch", "btt_moe:E=4,k=2", "ffn_moe:E=4,k=2", "monarch"};
  for (std::size_t i = 0; i < structures.size(); ++i) {
    TrainConfig c = config(structures[i]);
    c.model.head_width = one_of(std::vector<std::int64_t>{48, 64, 96});
    c.model.width =
        c.model.head_width * static_cast<std::int64_t>(2 + random.below(6));
    c.model.context = one_of(std::vector<std::int64_t>{100, 128, 400, 640});
    c.data.batch_size = 8 + 4000 / c.model.context;
    c.device = "cuda";
    c.dtype = i == 4 ? "float32" : "bfloat16";
    c.steps = 6;
    c.log_every = 1;
    c.eval_every = 0;
    c.checkpoint_every = 3;
    const std::string name = std::to_string(i);
    train(c, options("whole" + name));
    TrainOptions o = options("resumed" + name);
    std::int64_t done = 0;
    o.on_step = [&](std::int64_t step, double) { done = step; };
    o.should_stop = [&] { return done == 2; };
    EXPECT_EQ(train(c, o).outcome, Outcome::kInterrupted);
    o.should_stop = nullptr;
    o.resume = true;
    train(c, o);
    const std::string what = fmt::format(
        "{}, width {}, heads of {}, context {}",
        c.model.structure.all,
        c.model.width,
        c.model.head_width,
        c.model.context);
    EXPECT_TRUE(weights("resumed" + name) == weights("whole" + name)) << what;
    EXPECT_EQ(log("resumed" + name), log("whole" + name)) << what;
  }
}
#endif

TEST_F(TrainerTest, CheckpointsOnlyWhenStopped) {
  TrainConfig c = config();
  c.checkpoint_every = -1;
  TrainOptions o = options("stopped");
  o.stop_at_step = 12;
  EXPECT_EQ(train(c, o).outcome, Outcome::kPaused);
  EXPECT_TRUE(fs::exists(root_ / "stopped/checkpoints/step_00000012"));
  o.resume = true;
  o.stop_at_step = -1;
  EXPECT_EQ(train(c, o).outcome, Outcome::kFinished);
  EXPECT_FALSE(fs::exists(root_ / "stopped/checkpoints/step_00000023"));
}

TEST_F(TrainerTest, PausesAndGoesOn) {
  const TrainConfig c = config();
  train(c, options("whole"));
  TrainOptions o = options("rungs");
  std::set<std::int64_t> steps;
  o.on_point = [&](const store::CurvePoint& p) { steps.insert(p.step); };
  o.resume = true;  // from nothing, as a search does
  o.stop_at_step = 8;
  const TrainResult first = train(c, o);
  EXPECT_EQ(first.outcome, Outcome::kPaused);
  EXPECT_EQ(first.steps, 8);
  EXPECT_TRUE(std::isfinite(first.final_loss));
  const TrainResult again = train(c, o);  // nothing left to do
  EXPECT_EQ(again.outcome, Outcome::kPaused);
  EXPECT_EQ(again.final_loss, first.final_loss);
  o.stop_at_step = -1;
  EXPECT_EQ(train(c, o).outcome, Outcome::kFinished);
  EXPECT_EQ(steps, (std::set<std::int64_t>{0, 8, 10, 20, 23}));
  EXPECT_EQ(weights("rungs"), weights("whole"));
}

TEST_F(TrainerTest, DamagedNewestCheckpointIsPassedOver) {
  const TrainConfig c = config();
  train(c, options("whole"));
  TrainOptions o = options("run");
  o.stop_at_step = 16;
  train(c, o);
  fs::resize_file(
      root_ / "run/checkpoints/step_00000016/optimizer.safetensors", 100);
  o.resume = true;
  o.stop_at_step = -1;
  testing::internal::CaptureStderr();
  EXPECT_EQ(train(c, o).outcome, Outcome::kFinished);
  EXPECT_NE(
      testing::internal::GetCapturedStderr().find("damaged checkpoint"),
      std::string::npos);
  EXPECT_EQ(weights("run"), weights("whole"));
  EXPECT_EQ(log("run").size(), log("whole").size());
}

// The whole folder is as it was.
TEST_F(TrainerTest, ARefusedRunChangesNothing) {
  const TrainConfig c = config();
  train(c, options("run"));
  const auto listing = [&] {
    std::string all;
    for (const auto& entry : fs::recursive_directory_iterator(root_ / "run")) {
      all += entry.path().string() + "\n";
      if (entry.is_regular_file()) {
        all += base::read_file(entry.path());
      }
    }
    return all;
  };
  // What a kill has left is nobody's business but a run's that goes on.
  fs::create_directories(root_ / "run/checkpoints/.new_24");
  const std::string before = listing();
  std::vector<TrainConfig> refused(5, c);
  refused[0].model.width = 32;
  refused[1].steps = 22;
  refused[2].data.batch_size = 8;
  refused[3].device = "cuda:99";
  refused[4].optimizer.beta1 = 0.8;
  for (const TrainConfig& other : refused) {
    TrainOptions o = options("run");
    o.resume = true;
    EXPECT_THROW(train(other, o), base::InvalidInput);
    EXPECT_EQ(listing(), before);
  }
  EXPECT_THROW(train(c, options("run")), base::InvalidInput);
  EXPECT_EQ(listing(), before);
}

// What a kill between the last checkpoint and whoever keeps the result loses.
TEST_F(TrainerTest, AFinishedRunGivesItsResultAgain) {
  for (const std::string structure : {"dense", "btt_moe:E=4,k=1"}) {
    const TrainConfig c = config(structure);
    TrainOptions o = options(structure);
    const TrainResult first = train(c, o);
    o.resume = true;
    const TrainResult again = train(c, o);
    EXPECT_EQ(again.outcome, Outcome::kFinished);
    EXPECT_EQ(again.steps, first.steps);
    EXPECT_EQ(again.final_loss, first.final_loss);
    EXPECT_EQ(again.flops, first.flops);
    EXPECT_EQ(again.seconds, first.seconds);
    EXPECT_EQ(again.routers, first.routers);
    EXPECT_EQ(again.routers.is_null(), structure == "dense");
  }
}

TEST_F(TrainerTest, ADamagedCheckpointOfAKilledRunDoesNotStayInTheWay) {
  const TrainConfig c = config();
  train(c, options("whole"));
  train(c, options("run"));
  const fs::path at = root_ / "run/checkpoints";
  fs::resize_file(at / "step_00000023/model.safetensors", 100);
  // The trash of a kill while it was being removed.
  fs::create_directories(at / ".old_23/inside");
  TrainOptions o = options("run");
  o.resume = true;
  o.on_warning = [](const std::string&) {};
  EXPECT_EQ(train(c, o).outcome, Outcome::kFinished);
  EXPECT_EQ(weights("run"), weights("whole"));
  for (const auto& entry : fs::directory_iterator(at)) {
    EXPECT_TRUE(entry.path().filename().string().starts_with("step_"));
  }
}

TEST_F(TrainerTest, RefusesAnotherRunsCheckpointByTheKeyThatDiffers) {
  const TrainConfig c = config();
  TrainOptions o = options("run");
  train(c, o);
  EXPECT_THROW(train(c, o), base::InvalidInput);  // not asked to resume
  o.resume = true;
  const auto refused = [&](const char* key, auto change) {
    TrainConfig other = c;
    change(other);
    try {
      train(other, o);
      ADD_FAILURE() << key << " may not change";
    } catch (const base::InvalidInput& error) {
      EXPECT_NE(std::string(error.what()).find(key), std::string::npos)
          << error.what();
    }
  };
  refused("model.width", [](auto& other) { other.model.width = 32; });
  refused("model.bias", [](auto& other) { other.model.bias = false; });
  refused("model.structure.q", [](auto& other) {
    other.model.structure.q = "dense";
  });
  refused("model.moe.router.z_weight", [](auto& other) {
    other.model.moe.router.z_weight = 1;
  });
  refused("seed", [](auto& other) { other.seed = 1; });
  refused("optimizer.learning_rate", [](auto& other) {
    other.optimizer.learning_rate = 1;
  });
  refused("data.batch_size", [](auto& other) { other.data.batch_size = 8; });
  refused("flops", [](auto& other) { other.flops = "paper"; });
  refused("steps", [](auto& other) { other.steps = 5; });
  // Another text of the same symbols.
  std::ofstream(root_ / "other.txt")
      << base::read_file(root_ / "text.txt") << "One more paragraph.\n";
  data::prepare(
      {.inputs = {(root_ / "other.txt").string()},
       .out = root_ / "other",
       .progress = false});
  refused("data.hash", [&](auto& other) {
    other.data.path = (root_ / "other").string();
  });
}

TEST_F(TrainerTest, GoesOnWithOtherIntervalsScheduleAndPlaces) {
  const TrainConfig c = config();
  TrainOptions o = options("run");
  train(c, o);
  o.resume = true;
  fs::rename(root_ / "data", root_ / "moved");
  TrainConfig other = c;
  other.data.path = (root_ / "moved").string();
  other.steps = 30;
  other.schedule = {.kind = "wsd", .warmup_steps = 1};
  other.log_every = other.eval_every = 3;
  other.eval_batches = 1;
  other.checkpoint_every = 2;
  other.keep_checkpoints = 5;
  other.dtype = "bfloat16";
  const TrainResult result = train(other, o);
  EXPECT_EQ(result.outcome, Outcome::kFinished);
  EXPECT_EQ(result.steps, 30);
}

TEST_F(TrainerTest, OneProcessAtATime) {
  const TrainConfig c = config();
  train(c, options("run"));
  TrainOptions o = options("run");
  o.resume = true;
  {
    const base::FolderLock other(root_ / "run");
    EXPECT_THROW(train(c, o), base::InvalidInput);
  }
  EXPECT_EQ(train(c, o).outcome, Outcome::kFinished);
}

}  // namespace
}  // namespace einforge::train
