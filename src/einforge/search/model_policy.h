#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "einforge/search/candidate.h"
#include "einforge/search/scheduler.h"

namespace einforge::search {

struct ModelOptions {
  // Of trials, the first of which are those that the model begins with.
  std::vector<std::size_t> order;
  // Compute is training seconds, not FLOPs: those of the kind's trials, before
  // any has trained those by Candidate::speed.
  bool seconds = false;
  // Ends when no trial was expected to raise the multiplier by this share for
  // as many decisions as it begins with.
  double stop_gain = 0.005;
};

// Chooses by what a Gaussian process expects of each trial. It models ln loss
// at the end of each rung as a law (CurveLaw) times what the law leaves to the
// candidate's features, so that trials of all structures, widths and lengths
// inform each other. A trial that has begun may go on, or another may begin,
// whichever is expected to improve the compute multiplier most per compute:
//
//   E[max(0, ln M - ln M_best)] / (compute to the trial's end)
//
// M is the compute at which the baseline's frontier has the loss that the trial
// ends with, over the trial's own; M_best is the best of a whole trial.
// Sources: Swersky, Snoek and Adams, arXiv 1406.3896 (freeze-thaw); Jones,
// Schonlau and Welch, J. Global Optim. 13 (1998), 455 (expected improvement).
std::unique_ptr<Policy> model_policy(
    std::vector<Candidate> candidates, int rungs, ModelOptions options);

}  // namespace einforge::search
