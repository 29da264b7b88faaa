#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "einforge/store/store.h"

namespace einforge::search {

// What a scheduler needs to know of a trial.
struct TrialState {
  store::Status status = store::Status::kQueued;
  // Rungs passed: trained to the budget of that many rungs.
  int rung = 0;
  // Validation loss at the end of each rung passed; NaN loses to everything.
  std::vector<double> rung_losses;
  // Training seconds up to the end of each rung passed; NaN where unknown.
  std::vector<double> rung_seconds;
};

// It runs or waits in the queue.
bool on_its_way(const TrialState& trial);

// What to do with trials that neither run nor wait in the queue.
struct Plan {
  // Indexes of those to be queued, in this order.
  std::vector<std::size_t> queue;
  // To stay where they are for good, and why.
  struct Dropped {
    std::size_t trial;
    std::string reason;
  };
  std::vector<Dropped> dropped;
  // Nothing is running, queued or to be queued.
  bool finished = false;
};

// Synchronous successive halving: all trials, which compete with each other,
// train to the first rung's budget, of those the best 1 / eta go on to the
// second's, and so on.
// Of n trials that started, floor(n / eta^r) pass r rungs, and at least one.
// With one rung it is plain grid search: every trial trains to the end.
//
// A pure function of the states: it keeps nothing between calls, so that a
// search killed at any moment comes to the same plan when started again, and
// the outcome does not depend on the number of workers.
//
// Statuses: kQueued and kRunning are on their way to the end of their rung;
// kPruned has reached it and waits (or was dropped); kDone has passed the last;
// kFailed and kDiverged lose.
// Source: Jamieson and Talwalkar, arXiv 1502.07943, algorithm "successive
// halving".
Plan plan(std::span<const TrialState> trials, int rungs, int eta);

// Of one trial that is to pass `rungs` rungs and no more.
Plan plan_to(const TrialState& trial, int rungs);

// What a policy holds of the best trial that has ended.
struct Belief {
  std::size_t trial = 0;
  double log_multiplier = 0;  // ln of the compute multiplier over the baseline
  double deviation = 0;       // of the same
  double gain = 0;  // what going on is expected to add to it, at the best
  // Of the trials that did not begin those that are not expected to: at the
  // upper end of their 95% interval they stay below the lower end of its.
  std::size_t hopeless = 0;
};

// What a policy expected when it chose a trial.
struct Prediction {
  std::size_t trial = 0;
  int rung = 0;          // that it was to train to the end of
  double log_loss = 0;   // there
  double deviation = 0;  // of the same as it is measured
};

// Decides the next step of an asynchronous search: which trial trains to the
// end of its next rung. It sees results in the order of its own decisions, not
// in that of their arrival.
class Policy {
 public:
  virtual ~Policy() = default;
  // The trial has ended the rung, counted from 0; `loss` is NaN where it failed
  // or diverged, and it then goes no further. `seconds` of training so far may
  // be NaN.
  virtual void reveal(
      std::size_t trial, int rung, double loss, double seconds) = 0;
  // The trial to go on with, at the rung after its last; none: nothing, until
  // more is revealed. `pending` decisions are not revealed yet; without any,
  // none ends the search.
  virtual std::optional<std::size_t> next(std::size_t pending) = 0;
  // As of its last decision; none where it has none.
  virtual std::optional<Belief> belief() const { return std::nullopt; }
  // In the order of its decisions; none for those that it took without.
  virtual std::vector<Prediction> predictions() const { return {}; }
};

// Plays a policy. Decision n is taken when the results of all decisions up to
// n - lookahead are known, and from these alone (and, where the policy wants to
// see more before it goes on, from the next ones, one by one). So `lookahead`
// trials train at a time, no rung waits for its slowest trial, and all
// decisions are a function of the results: how fast trials were, how often the
// search was killed and in what order results came change none.
//
// What it keeps between calls is what it would find again from the states.
class Asynchronous {
 public:
  Asynchronous(
      std::unique_ptr<Policy> policy, int rungs, std::size_t lookahead);
  // Of the trials, always the same in the same order.
  Plan plan(std::span<const TrialState> trials);
  std::optional<Belief> belief() const { return policy_->belief(); }
  std::vector<Prediction> predictions() const { return policy_->predictions(); }

 private:
  struct Decision {
    std::size_t trial;
    int rung;
  };
  bool reveal_next(std::span<const TrialState> trials);

  std::unique_ptr<Policy> policy_;
  int rungs_;
  std::size_t lookahead_;
  std::vector<Decision> decisions_;
  std::vector<int> decided_;  // rungs, beside the trials
  std::size_t revealed_ = 0;  // decisions
  // How many were revealed when the policy last wanted to see more.
  std::optional<std::size_t> waited_at_;
  bool finished_ = false;
};

// Asynchronous successive halving: a trial goes on to the next rung as soon as
// it is among the best 1 / eta of those that have ended its rung; where there
// is none, the next trial of `order` starts. When all have ended, at least one
// of each rung goes on.
// Source: Li et al., arXiv 1810.05934, algorithm 2 (ASHA).
std::unique_ptr<Policy> asha_policy(
    std::vector<std::size_t> order, int rungs, int eta);

// Steps that the last of `rungs` rungs, the whole budget, and the earlier ones
// end at: steps / eta^(rungs - 1 - rung), rounded up to a multiple of
// `eval_every` so that every rung ends with an evaluation; the last is `steps`.
// `rung` counts from 0.
std::int64_t rung_steps(
    std::int64_t steps, std::int64_t eval_every, int rung, int rungs, int eta);

}  // namespace einforge::search
