#pragma once

#include <string>
#include <vector>

namespace einforge::search {

// What is known of a trial's cost while a search runs.
struct TrialCost {
  // Trials of one kind (structure and model) run at about one speed.
  std::string kind;
  double flops_done = 0;
  double seconds = 0;  // training time so far; 0 where unknown
  // Still to be done; an expectation where the trial may be dropped.
  double flops_left = 0;
};

// Seconds that each trial still needs, at the speed of its kind so far, or,
// before any of its kind has run, at the mean speed of all; infinity before
// anything has run.
std::vector<double> seconds_left(const std::vector<TrialCost>& trials);

// Seconds until all are done by `workers` side by side: the work shared
// evenly, and no less than the longest trial.
double seconds_left(const std::vector<TrialCost>& trials, int workers);

// The share of a trial's budget that successive halving is expected to spend
// on it beyond the rungs it has passed, when it is as good as any other.
double expected_share_left(int rungs_passed, int rungs, int eta);

}  // namespace einforge::search
