#pragma once

#include <cstddef>
#include <cstdint>
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

// Steps that the last of `rungs` rungs, the whole budget, and the earlier ones
// end at: steps / eta^(rungs - 1 - rung), rounded up to a multiple of
// `eval_every` so that every rung ends with an evaluation; the last is `steps`.
// `rung` counts from 0.
std::int64_t rung_steps(
    std::int64_t steps, std::int64_t eval_every, int rung, int rungs, int eta);

}  // namespace einforge::search
