#include "einforge/search/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "einforge/base/random.h"

namespace einforge::search {
namespace {

using store::Status;
using testing::ElementsAre;
using testing::IsEmpty;

// A trial with a name, so that plans can be read.
struct Named {
  std::string name;
  TrialState state;
};

Named state(
    const std::string& name,
    Status status,
    int rung,
    std::vector<double> losses) {
  return {name, {status, rung, std::move(losses)}};
}

struct NamedPlan {
  std::vector<std::string> queue;
  std::vector<std::string> dropped;
  std::vector<std::string> reasons;
  bool finished = false;
};

NamedPlan plan(const std::vector<Named>& trials, int rungs, int eta) {
  std::vector<TrialState> states;
  for (const Named& trial : trials) {
    states.push_back(trial.state);
  }
  const Plan found = search::plan(states, rungs, eta);
  NamedPlan result;
  result.finished = found.finished;
  for (const std::size_t index : found.queue) {
    result.queue.push_back(trials[index].name);
  }
  for (const Plan::Dropped& dropped : found.dropped) {
    result.dropped.push_back(trials[dropped.trial].name);
    result.reasons.push_back(dropped.reason);
  }
  return result;
}

TEST(Scheduler, GridRunsEverythingToTheEnd) {
  const NamedPlan running = plan(
      {state("a", Status::kDone, 1, {}),
       state("b", Status::kRunning, 0, {}),
       state("c", Status::kQueued, 0, {}),
       state("d", Status::kFailed, 0, {})},
      1,
      3);
  EXPECT_THAT(running.queue, IsEmpty());
  EXPECT_FALSE(running.finished);
  const NamedPlan over = plan(
      {state("a", Status::kDone, 1, {}),
       state("b", Status::kDiverged, 0, {}),
       state("c", Status::kFailed, 0, {})},
      1,
      3);
  EXPECT_TRUE(over.finished);
  EXPECT_THAT(over.dropped, IsEmpty());
}

TEST(Scheduler, QueuesWhatLeftTheSpaceAndCameBack) {
  const NamedPlan result = plan({state("a", Status::kPruned, 0, {})}, 1, 3);
  EXPECT_THAT(result.queue, ElementsAre("a"));
  EXPECT_FALSE(result.finished);
}

// Six trials, eta 2, three rungs: 6 -> 3 -> 1, worked out by hand.
TEST(Scheduler, HalvingWaitsForTheRung) {
  const NamedPlan result = plan(
      {state("a", Status::kPruned, 1, {3.0}),
       state("b", Status::kPruned, 1, {2.0}),
       state("c", Status::kPruned, 1, {2.5}),
       state("d", Status::kRunning, 0, {}),
       state("e", Status::kPruned, 1, {1.0}),
       state("f", Status::kQueued, 0, {})},
      3,
      2);
  EXPECT_THAT(result.queue, IsEmpty());
  EXPECT_THAT(result.dropped, IsEmpty());
  EXPECT_FALSE(result.finished);
}

TEST(Scheduler, HalvingPromotesTheBestHalf) {
  const NamedPlan result = plan(
      {state("a", Status::kPruned, 1, {3.0}),
       state("b", Status::kPruned, 1, {2.0}),
       state("c", Status::kPruned, 1, {2.5}),
       state("d", Status::kPruned, 1, {4.0}),
       state("e", Status::kPruned, 1, {1.0}),
       state("f", Status::kDiverged, 0, {})},
      3,
      2);
  EXPECT_THAT(result.queue, ElementsAre("e", "b", "c"));
  EXPECT_THAT(result.dropped, ElementsAre("a", "d"));
  EXPECT_EQ(
      result.reasons[0],
      "place 4 of 5 at rung 1 of 3 (loss 3.0000); 3 went on");
}

// Killed after it queued only some of the promoted: the plan completes itself.
TEST(Scheduler, HalvingGoesOnFromHalfAPromotion) {
  const NamedPlan result = plan(
      {state("a", Status::kPruned, 1, {3.0}),
       state("b", Status::kPruned, 1, {2.0}),
       state("c", Status::kPruned, 1, {2.5}),
       state("d", Status::kPruned, 1, {4.0}),
       state("e", Status::kPruned, 2, {1.0, 0.9}),
       state("f", Status::kPruned, 1, {5.0})},
      3,
      2);
  EXPECT_THAT(result.queue, ElementsAre("b", "c"));
  EXPECT_THAT(result.dropped, ElementsAre("a", "d", "f"));
}

TEST(Scheduler, HalvingJudgesEachRungByItsOwnLoss) {
  // e was best at rung 1, b is best at rung 2.
  const NamedPlan result = plan(
      {state("a", Status::kPruned, 1, {3.0}),
       state("b", Status::kPruned, 2, {2.0, 0.8}),
       state("c", Status::kFailed, 1, {2.5}),
       state("d", Status::kPruned, 1, {4.0}),
       state("e", Status::kPruned, 2, {1.0, 0.9}),
       state("f", Status::kPruned, 1, {5.0})},
      3,
      2);
  EXPECT_THAT(result.queue, ElementsAre("b"));
  EXPECT_THAT(result.dropped, ElementsAre("a", "d", "f", "e"));
  EXPECT_FALSE(result.finished);
}

TEST(Scheduler, HalvingEnds) {
  const NamedPlan result = plan(
      {state("a", Status::kPruned, 1, {3.0}),
       state("b", Status::kDone, 3, {2.0, 0.8, 0.7}),
       state("e", Status::kPruned, 2, {1.0, 0.9}),
       state("f", Status::kFailed, 0, {})},
      3,
      2);
  EXPECT_TRUE(result.finished);
  EXPECT_THAT(result.queue, IsEmpty());
}

TEST(Scheduler, EverythingFailedIsFinished) {
  EXPECT_TRUE(plan({state("a", Status::kFailed, 0, {})}, 3, 2).finished);
  EXPECT_TRUE(plan({}, 3, 2).finished);
}

TEST(Scheduler, NaNLosesAndTiesKeepTheirOrder) {
  const NamedPlan result = plan(
      {state("nan", Status::kPruned, 1, {NAN}),
       state("first", Status::kPruned, 1, {1.0}),
       state("second", Status::kPruned, 1, {1.0}),
       state("worse", Status::kPruned, 1, {2.0})},
      2,
      2);
  EXPECT_THAT(result.queue, ElementsAre("first", "second"));
  EXPECT_THAT(result.dropped, ElementsAre("worse", "nan"));
}

// The largest values that a configuration may have.
TEST(Scheduler, RungStepsAtTheLimits) {
  constexpr std::int64_t kSteps = 1'000'000'000'000'000'000;
  for (int rung = 0; rung < 20; ++rung) {
    const std::int64_t steps = rung_steps(kSteps, 1, rung, 20, 1000);
    EXPECT_GE(steps, 1);
    EXPECT_LE(steps, kSteps);
  }
  EXPECT_EQ(rung_steps(kSteps, kSteps, 0, 20, 1000), kSteps);
  EXPECT_EQ(rung_steps(1, 1, 0, 20, 1000), 1);
}

TEST(Scheduler, RungStepsAreSharesThatEndWithAnEvaluation) {
  // 900 steps, eta 3, three rungs: 100, 300, 900.
  EXPECT_EQ(rung_steps(900, 10, 0, 3, 3), 100);
  EXPECT_EQ(rung_steps(900, 10, 1, 3, 3), 300);
  EXPECT_EQ(rung_steps(900, 10, 2, 3, 3), 900);
  // 1000 / 9 = 111.1 -> 120; 1000 / 3 = 333.3 -> 340.
  EXPECT_EQ(rung_steps(1000, 20, 0, 3, 3), 120);
  EXPECT_EQ(rung_steps(1000, 20, 1, 3, 3), 340);
  EXPECT_EQ(rung_steps(1000, 20, 2, 3, 3), 1000);
  // Never beyond the budget, never nothing.
  EXPECT_EQ(rung_steps(5, 7, 0, 3, 3), 5);
  EXPECT_EQ(rung_steps(1, 1, 0, 9, 4), 1);
  EXPECT_EQ(rung_steps(77, 7, 0, 1, 3), 77);
}

// Plays random halvings to the end, trials finishing in random order: the
// trials that pass each rung are exactly the best by that rung's losses,
// whatever the order, and as many as the rule says.
TEST(Scheduler, OutcomeDoesNotDependOnTheOrderOfWork) {
  base::Random random(5);
  for (int round = 0; round < 50; ++round) {
    const int count = 1 + static_cast<int>(random.below(30));
    const int rungs = 1 + static_cast<int>(random.below(4));
    const int eta = 2 + static_cast<int>(random.below(3));
    std::vector<std::vector<double>> losses;
    for (int i = 0; i < count; ++i) {
      auto& curve = losses.emplace_back();
      for (int rung = 0; rung < rungs; ++rung) {
        curve.push_back(random.uniform());
      }
    }
    const auto play = [&](std::uint64_t seed) {
      base::Random order(seed);
      std::vector<TrialState> trials;
      for (int i = 0; i < count; ++i) {
        trials.push_back({Status::kQueued, 0, {}});
      }
      for (;;) {
        const Plan next = search::plan(trials, rungs, eta);
        for (const std::size_t index : next.queue) {
          trials[index].status = Status::kQueued;
        }
        std::vector<std::size_t> queued;
        for (std::size_t i = 0; i < trials.size(); ++i) {
          if (trials[i].status == Status::kQueued) {
            queued.push_back(i);
          }
        }
        EXPECT_EQ(next.finished, queued.empty());
        if (queued.empty()) {
          return trials;
        }
        const std::size_t index = queued[order.below(queued.size())];
        TrialState& trial = trials[index];
        trial.rung_losses.push_back(
            losses[index][static_cast<std::size_t>(trial.rung)]);
        ++trial.rung;
        trial.status = trial.rung == rungs ? Status::kDone : Status::kPruned;
      }
    };
    const auto first = play(1);
    const auto second = play(2);
    for (int i = 0; i < count; ++i) {
      const auto index = static_cast<std::size_t>(i);
      EXPECT_EQ(first[index].rung, second[index].rung);
    }
    int places = count;
    for (int rung = 1; rung < rungs; ++rung) {
      places = std::max(1, places / eta);
      const auto passed = std::count_if(
          first.begin(), first.end(), [rung](const TrialState& trial) {
            return trial.rung > rung;
          });
      EXPECT_EQ(passed, places) << count << " trials, eta " << eta;
    }
  }
}

}  // namespace
}  // namespace einforge::search
