#include "einforge/search/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <optional>

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
  return {name, {status, rung, std::move(losses), {}}};
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
        trials.push_back({Status::kQueued, 0, {}, {}});
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

// Asynchronous halving on trials whose losses are known, one result at a time.
class Played {
 public:
  Played(
      std::vector<std::vector<double>> losses,
      int rungs,
      int eta,
      std::size_t lookahead)
      : losses_(std::move(losses)),
        rungs_(rungs),
        eta_(eta),
        lookahead_(lookahead),
        trials_(losses_.size(), TrialState{Status::kPruned, 0, {}, {}}) {
    restart();
  }

  // As a search that was killed and started again.
  void restart() {
    std::vector<std::size_t> order(losses_.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    scheduler_.emplace(
        asha_policy(std::move(order), rungs_, eta_), rungs_, lookahead_);
  }

  // What is queued now.
  std::vector<std::size_t> plan() {
    plan_ = scheduler_->plan(trials_);
    std::vector<std::size_t> queued;
    for (const std::size_t index : plan_.queue) {
      trials_[index].status = Status::kQueued;
    }
    for (std::size_t i = 0; i < trials_.size(); ++i) {
      if (trials_[i].status == Status::kQueued) {
        queued.push_back(i);
      }
    }
    return queued;
  }

  void train(std::size_t index) {
    TrialState& trial = trials_[index];
    const double loss = losses_[index][static_cast<std::size_t>(trial.rung)];
    if (std::isnan(loss)) {
      trial.status = Status::kDiverged;
      return;
    }
    trial.rung_losses.push_back(loss);
    ++trial.rung;
    trial.status = trial.rung == rungs_ ? Status::kDone : Status::kPruned;
  }

  const std::vector<TrialState>& trials() const { return trials_; }
  const Plan& last_plan() const { return plan_; }

 private:
  std::vector<std::vector<double>> losses_;
  int rungs_;
  int eta_;
  std::size_t lookahead_;
  std::vector<TrialState> trials_;
  std::optional<Asynchronous> scheduler_;
  Plan plan_;
};

// Worked out by hand: of two that ended the better goes on; d, the best of all,
// goes on as soon as it ends, before any other starts.
TEST(Asha, PromotesAsResultsCome) {
  Played play({{2.0, 1.5}, {3.0, 2.5}, {2.5, 2.0}, {1.0, 0.5}}, 2, 2, 1);
  std::vector<std::size_t> order;
  for (auto queued = play.plan(); !queued.empty(); queued = play.plan()) {
    ASSERT_EQ(queued.size(), 1U);
    order.push_back(queued[0]);
    play.train(queued[0]);
  }
  EXPECT_THAT(order, ElementsAre(0, 1, 0, 2, 3, 3));
  EXPECT_TRUE(play.last_plan().finished);
  ASSERT_EQ(play.last_plan().dropped.size(), 2U);
  EXPECT_EQ(play.last_plan().dropped[0].trial, 1U);
  EXPECT_EQ(
      play.last_plan().dropped[0].reason,
      "did not go on after rung 1 of 2 (loss 3.0000)");
}

TEST(Asha, AtLeastOneReachesTheEnd) {
  Played play({{2.0, 1.5, 1.2}, {NAN}, {1.0, 0.5, 0.4}}, 3, 4, 2);
  for (auto queued = play.plan(); !queued.empty(); queued = play.plan()) {
    play.train(queued[0]);
  }
  EXPECT_TRUE(play.last_plan().finished);
  EXPECT_EQ(play.trials()[0].rung, 1);
  EXPECT_EQ(play.trials()[1].status, Status::kDiverged);
  EXPECT_EQ(play.trials()[2].status, Status::kDone);
}

TEST(Asha, NothingToTrain) {
  Played empty({}, 3, 3, 1);
  EXPECT_TRUE(empty.plan().empty());
  EXPECT_TRUE(empty.last_plan().finished);
  Played lost({{NAN}, {NAN}}, 3, 3, 1);
  for (auto queued = lost.plan(); !queued.empty(); queued = lost.plan()) {
    lost.train(queued[0]);
  }
  EXPECT_TRUE(lost.last_plan().finished);
}

// Trials end in random order and the search is killed at random: what each
// trial comes to is the same, and rungs are as narrow as the rule says.
TEST(Asha, OutcomeDependsNeitherOnOrderNorOnKills) {
  base::Random random(11);
  for (int round = 0; round < 100; ++round) {
    const int count = 1 + static_cast<int>(random.below(40));
    const int rungs = 1 + static_cast<int>(random.below(4));
    const int eta = 2 + static_cast<int>(random.below(3));
    const std::size_t lookahead = 1 + random.below(5);
    std::vector<std::vector<double>> losses;
    for (int i = 0; i < count; ++i) {
      auto& curve = losses.emplace_back();
      for (int rung = 0; rung < rungs; ++rung) {
        curve.push_back(random.below(10) == 0 ? NAN : random.uniform());
      }
    }
    const auto run = [&](std::uint64_t seed, bool kills) {
      base::Random order(seed);
      Played play(losses, rungs, eta, lookahead);
      for (auto queued = play.plan(); !queued.empty(); queued = play.plan()) {
        EXPECT_LE(queued.size(), lookahead);
        play.train(queued[order.below(queued.size())]);
        if (kills && order.below(3) == 0) {
          play.restart();
        }
      }
      EXPECT_TRUE(play.last_plan().finished);
      return play.trials();
    };
    const auto first = run(1, false);
    const auto second = run(2, true);
    for (std::size_t i = 0; i < first.size(); ++i) {
      EXPECT_EQ(first[i].rung, second[i].rung);
      EXPECT_EQ(first[i].status, second[i].status);
      EXPECT_NE(first[i].status, Status::kQueued);
    }
    std::size_t ended = first.size();
    for (int rung = 0; rung < rungs; ++rung) {
      const auto began = static_cast<std::size_t>(std::count_if(
          first.begin(), first.end(), [rung](const TrialState& trial) {
            return trial.rung > rung ||
                   (trial.rung == rung && trial.status == Status::kDiverged);
          }));
      if (rung == 0) {
        EXPECT_EQ(began, first.size());
      } else {
        // A trial that was promoted early may leave the best later.
        EXPECT_GE(began, std::min<std::size_t>(1, ended));
        EXPECT_GE(began * static_cast<std::size_t>(eta) * 2 + 1, ended / 2);
      }
      ended = static_cast<std::size_t>(std::count_if(
          first.begin(), first.end(), [rung](const TrialState& trial) {
            return trial.rung > rung;
          }));
    }
  }
}

}  // namespace
}  // namespace einforge::search
