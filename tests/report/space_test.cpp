// What trials differ in, what of it matters, what none beats, and what a
// search expected.

#include "einforge/report/space.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "einforge/report/expectations.h"
#include "einforge/report/json.h"
#include "einforge/report/pareto.h"

namespace einforge::report {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

// A trial that ended at step 10 of 10.
TrialRecord record(
    const std::string& structure, int width, double rate, double loss) {
  store::Trial trial;
  trial.id = fmt::format("{} {} {}", structure, width, rate);
  trial.structure = structure;
  trial.model = fmt::format("gpt d{} L1", width);
  trial.learning_rate = rate;
  trial.status = store::Status::kDone;
  trial.final_loss = loss;
  trial.flops = 100.0 * width;
  trial.config = {
      {"model",
       {{"width", width},
        {"layers", 1},
        {"structure", {{"all", structure}, {"q", ""}, {"head", "dense"}}}}},
      {"steps", 10}};
  store::CurvePoint point;
  point.step = 10;
  point.tokens = 10;
  point.flops = trial.flops;
  point.val_loss = loss;
  return make_record(trial, {point});
}

TEST(Space, HasOnlyWhatDiffersAndNumbersInOrder) {
  const Space space = space_of(
      {record("monarch", 64, 1e-2, 3),
       record("dense", 64, 2e-3, 4),
       record("dense", 8, 1e-2, 5)});
  ASSERT_THAT(space.axes, SizeIs(3));
  EXPECT_EQ(space.axes[0].name, "structure");
  EXPECT_THAT(space.axes[0].levels, ElementsAre("monarch", "dense"));
  EXPECT_EQ(space.axes[1].name, "width");
  EXPECT_THAT(space.axes[1].levels, ElementsAre("8", "64"));
  EXPECT_THAT(space.axes[2].levels, ElementsAre("0.002", "0.01"));
  EXPECT_THAT(space.points[0].levels, ElementsAre(0, 1, 1));
  EXPECT_THAT(space.points[2].levels, ElementsAre(1, 0, 1));
}

TEST(Space, NamesKindsOfLayersThatDifferTogetherOnce) {
  std::vector<TrialRecord> trials = {
      record("dense", 8, 1e-2, 3), record("dense", 8, 1e-2, 4)};
  auto& own = trials[1].trial.config["model"]["structure"];
  own["q"] = "monarch";
  own["attention_out"] = "monarch";
  Space space = space_of(trials);
  ASSERT_THAT(space.axes, SizeIs(1));
  EXPECT_EQ(space.axes[0].name, "structure");
  own["ffn_in"] = "monarch";
  trials.push_back(record("dense", 8, 1e-2, 5));
  trials.back().trial.config["model"]["structure"]["ffn_in"] = "monarch";
  space = space_of(trials);
  ASSERT_THAT(space.axes, SizeIs(2));
  EXPECT_EQ(space.axes[0].name, "qkv, attention_out");
  EXPECT_EQ(space.axes[1].name, "ffn_in");
}

TEST(Space, PutsManyRatesTogether) {
  std::vector<TrialRecord> trials;
  for (int i = 0; i < 100; ++i) {
    trials.push_back(record("dense", 8, 1e-3 * (1 + i), 3));
  }
  const Space space = space_of(trials);
  ASSERT_THAT(space.axes, SizeIs(1));
  EXPECT_THAT(space.axes[0].levels, SizeIs(15));  // of 7, the last of 2
  EXPECT_EQ(space.axes[0].levels.front(), "0.001 to 0.007");
  EXPECT_EQ(space.axes[0].levels.back(), "0.099 to 0.1");
  EXPECT_EQ(space.points[99].levels.front(), 14);
}

// A trial cut short says nothing of its structure by being worse.
TEST(Space, ImportancesAreOfTheWholeBudget) {
  std::vector<TrialRecord> trials;
  for (int structure = 0; structure < 4; ++structure) {
    for (int rate = 0; rate < 4; ++rate) {
      for (const int step : {1, 10}) {
        trials.push_back(record(
            fmt::format("btt:0.{}", structure + 1),
            8,
            1e-3 * (1 + rate),
            std::exp(0.1 * structure + 0.05 * rate + (step == 1 ? 1.0 : 0))));
        trials.back().trial.status =
            step == 1 ? store::Status::kPruned : store::Status::kDone;
        trials.back().curve.back().step = step;
      }
    }
  }
  const Space space = space_of(trials);
  const auto found = importances_of(space, trials);
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->trials, 32U);
  // Variances as 0.1^2 to 0.05^2.
  EXPECT_NEAR(found->axes[0].share, 0.8, 0.1);
  EXPECT_NEAR(found->axes[1].share, 0.2, 0.1);
  trials.resize(11);
  EXPECT_FALSE(importances_of(space_of(trials), trials).has_value());
}

TEST(Pareto, HasTheTrialsThatNoOtherBeatsInAll) {
  const std::vector<TrialRecord> trials = {
      record("dense", 64, 1e-2, 3.0),
      record("monarch", 64, 1e-2, 3.1),  // as many FLOPs, less memory
      record("btt:0.1", 64, 1e-2, 3.2),  // beaten by monarch
      record("dense", 8, 1e-2, 4.0)};
  base::Json metadata = {
      {"search", {{"objective", "flops, memory"}}},
      {"costs",
       {{"dense gpt d64 L1", {{"memory", 100}}},
        {"monarch gpt d64 L1", {{"memory", 50}}},
        {"btt:0.1 gpt d64 L1", {{"memory", 60}}},
        {"dense gpt d8 L1", {{"memory", 70}}}}}};
  const ParetoSet set = pareto_set(trials, metadata);
  EXPECT_THAT(set.objectives, ElementsAre("flops", "memory"));
  EXPECT_THAT(set.trials, ElementsAre(3, 1, 0));
  EXPECT_THAT(set.costs[1], ElementsAre(640, 50));
  metadata["search"]["objective"] = "flops";
  EXPECT_THAT(pareto_set(trials, metadata).trials, ElementsAre(3, 0));
  // One whose cost is not known is in none.
  metadata["search"]["objective"] = "memory";
  metadata["costs"].erase("monarch gpt d64 L1");
  EXPECT_THAT(pareto_set(trials, metadata).trials, ElementsAre(2, 0));
  EXPECT_THAT(pareto_set({}, base::Json()).trials, IsEmpty());
}

TEST(Expectations, CompareWithTheLossAtTheirStep) {
  const std::vector<TrialRecord> trials = {
      record("dense", 8, 1e-2, 3.0),
      record("monarch", 8, 1e-2, 2.0),
      record("btt:0.1", 8, 1e-2, 2.5)};
  const base::Json metadata = {
      {"predictions",
       {{trials[0].trial.id, 10, std::log(3.0) + 0.03, 0.02},
        {trials[1].trial.id, 10, std::log(2.0) - 0.04, 0.01},
        {trials[2].trial.id, 10, std::log(2.5), 0.01},
        {trials[2].trial.id, 5, 0.5, 0.01},  // not evaluated there
        {"of another search", 10, 0.5, 0.01},
        "what a hostile store may hold"}}};
  const Expectations found = expectations_of(trials, metadata);
  ASSERT_THAT(found.points, SizeIs(3));
  EXPECT_NEAR(found.points[0].expected, 3 * std::exp(0.03), 1e-9);
  EXPECT_NEAR(found.rmse, std::sqrt((0.03 * 0.03 + 0.04 * 0.04) / 3), 1e-9);
  EXPECT_NEAR(found.within, 2.0 / 3, 1e-9);
  EXPECT_NEAR(found.rank_correlation.value(), 1, 1e-9);
  EXPECT_THAT(expectations_of(trials, base::Json()).points, IsEmpty());
}

}  // namespace
}  // namespace einforge::report
