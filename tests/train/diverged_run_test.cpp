// Runs that have failed end as diverged, and leave no weights that are not
// finite.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <torch/types.h>

#include <cmath>
#include <cstring>
#include <string>

#include "einforge/base/error.h"
#include "einforge/train/checkpoint.h"
#include "einforge/train/load_model.h"
#include "tests/train/trainer_fixture.h"

namespace einforge::train {
namespace {

class DivergedRunTest : public TrainerTest {
 protected:
  // The regression task needs no data.
  TrainConfig mlp() const {
    TrainConfig c;
    c.model.kind = "mlp";
    c.model.width = 16;
    c.model.layers = 1;
    c.data.batch_size = 16;
    c.steps = 20;
    c.log_every = 5;
    c.eval_every = 10;
    c.eval_batches = 1;
    c.checkpoint_every = 1;
    c.device = "cpu";
    return c;
  }

  void expect_finite_checkpoints(const std::string& name) const {
    const fs::path folder = root_ / name / "checkpoints";
    for (const std::int64_t step : CheckpointFolder(folder).steps()) {
      const Checkpoint checkpoint =
          open_checkpoint(folder / fmt::format("step_{:08}", step));
      for (const base::Safetensors* file :
           {&checkpoint.model, &checkpoint.optimizer}) {
        for (const base::TensorView& t : file->tensors) {
          if (t.dtype != "F32") {
            continue;
          }
          for (std::size_t i = 0; i < t.data.size(); i += sizeof(float)) {
            float value = 0;
            std::memcpy(&value, t.data.data() + i, sizeof(float));
            ASSERT_TRUE(std::isfinite(value)) << step << " " << t.name;
          }
        }
      }
    }
  }

  TrainResult expect_divergence(const TrainConfig& c, const std::string& name) {
    const TrainResult result = train(c, options(name));
    EXPECT_EQ(result.outcome, Outcome::kDiverged) << name;
    EXPECT_NE(result.reason.find("step"), std::string::npos) << result.reason;
    expect_finite_checkpoints(name);
    return result;
  }
};

TEST_F(DivergedRunTest, RatesThatAreFarTooHigh) {
  for (const double rate : {1e3, 1e10, 1e30, 1e38, 1e300}) {
    for (const double clip : {0.0, 1.0}) {
      TrainConfig c = mlp();
      c.optimizer.learning_rate = rate;
      c.optimizer.clip_norm = clip;
      expect_divergence(c, fmt::format("mlp_{:g}_{}", rate, clip));
    }
  }
  TrainConfig c = config("dense");
  c.optimizer.learning_rate = 1e30;
  c.checkpoint_every = 1;
  expect_divergence(c, "gpt");
}

// Also with the default intervals, which look at nothing in between.
TEST_F(DivergedRunTest, ALossFarAboveTheFirstIsNoResult) {
  TrainConfig c = config("dense");
  // Norms keep what these weights do to the loss within bounds.
  c.optimizer.learning_rate = 30;
  c.schedule.kind = "constant";
  c.log_every = c.eval_every = c.checkpoint_every = 1000;
  const TrainResult result = train(c, options("run"));
  ASSERT_TRUE(std::isfinite(result.final_loss));
  ASSERT_GT(result.final_loss, 1.5 * std::log(96.0));
  EXPECT_EQ(result.outcome, Outcome::kDiverged);
  EXPECT_NE(result.reason.find("untrained"), std::string::npos)
      << result.reason;
  EXPECT_TRUE(CheckpointFolder(root_ / "run/checkpoints").steps().empty());
}

TEST_F(DivergedRunTest, RouterLossesThatDrownTheModels) {
  for (const double weight : {1e30, 1e38, 1e39, 1e300}) {
    for (const bool balance : {false, true}) {
      TrainConfig c = config("btt_moe:E=4,k=2");
      c.checkpoint_every = c.keep_checkpoints = 1;
      c.eval_every = 0;
      (balance ? c.model.moe.router.balance_weight
               : c.model.moe.router.z_weight) = weight;
      const TrainResult result =
          expect_divergence(c, fmt::format("run_{:g}_{}", weight, balance));
      EXPECT_LE(result.steps, c.log_every);
    }
  }
}

// A weight that overflows in an update whose gradient was finite.
TEST_F(DivergedRunTest, WeightsAreLookedAtBeforeTheyAreWritten) {
  TrainConfig c = mlp();
  c.optimizer.learning_rate = 3e38;
  c.schedule = {.kind = "constant", .warmup_steps = 0};
  c.steps = 1;
  expect_divergence(c, "run");
  EXPECT_TRUE(CheckpointFolder(root_ / "run/checkpoints").steps().empty());
}

TEST_F(DivergedRunTest, AnInterruptedRunThatDivergedHasDiverged) {
  TrainConfig c = mlp();
  c.optimizer.learning_rate = 1e300;
  c.log_every = c.eval_every = c.checkpoint_every = 1000;
  c.steps = 1000;
  TrainOptions o = options("run");
  int polls = 0;
  o.should_stop = [&] { return ++polls > 3; };
  const TrainResult result = train(c, o);
  EXPECT_EQ(result.outcome, Outcome::kDiverged);
  EXPECT_TRUE(CheckpointFolder(root_ / "run/checkpoints").steps().empty());
}

// Written by an einforge that did not look.
TEST_F(DivergedRunTest, WeightsThatAreNotFiniteAreNotLoaded) {
  const TrainConfig c = mlp();
  train(c, options("run"));
  const fs::path folder = root_ / "run/checkpoints";
  CheckpointFolder checkpoints(folder);
  const std::int64_t step = checkpoints.steps().front();
  const Checkpoint good =
      open_checkpoint(folder / fmt::format("step_{:08}", step));
  const LoadedModel model = load_model(root_ / "run");
  NamedTensors weights = state_tensors(*model.model);
  {
    const torch::NoGradGuard no_grad;
    weights[0].second.view({-1})[3] = NAN;
  }
  NamedTensors moments;
  for (const base::TensorView& t : good.optimizer.tensors) {
    moments.emplace_back(t.name, torch::zeros(t.shape));
  }
  checkpoints.write(step, weights, moments, good.state, 5);
  try {
    load_model(root_ / "run");
    FAIL() << "loaded";
  } catch (const base::InvalidInput& error) {
    EXPECT_NE(
        std::string(error.what()).find(weights[0].first), std::string::npos)
        << error.what();
  }
  TrainOptions o = options("run");
  o.resume = true;
  EXPECT_THROW(train(c, o), base::InvalidInput);
}

}  // namespace
}  // namespace einforge::train
