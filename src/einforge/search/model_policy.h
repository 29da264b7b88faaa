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
  // What trials are judged by beside their loss. Seconds are those of the
  // kind's trials, before any has trained those by Candidate::speed.
  std::vector<Cost> objectives{Cost::kFlops};
  // Ends when no trial was expected to raise the multiplier by this share for
  // as many decisions as it begins with.
  double stop_gain = 0.005;
};

// Chooses by what a Gaussian process expects of each trial. It models ln loss
// at the end of each rung as a law (CurveLaw) times what the law leaves to the
// candidate's features, so that trials of all structures, widths and lengths
// inform each other: a sum of what structures, sizes, learning rates and rungs
// are worth by themselves and together, and of what is of a trial alone. A
// trial that has begun may go on, or another may begin, whichever is expected
// to improve the compute multiplier most per compute:
//
//   E[max(0, ln M - ln M_best)] / (compute to the trial's end)
//
// M is the compute at which the baseline's frontier has the loss that the trial
// ends with, over the trial's own; M_best is the best of a whole trial. With
// memory or decode_ms for the objective M is the same ratio of these, and
// compute stays FLOPs (seconds, where these are among the objectives).
//
// With several objectives the improvement is that of the volume that no trial
// dominates: the mean, over limits of the costs drawn evenly from the range of
// their logarithms, of how much the least ln loss within the limits falls; over
// the slope of the baseline, so that it is in ln M of the first objective too.
// Costs are known, so that loss alone is uncertain.
// Sources: Swersky, Snoek and Adams, arXiv 1406.3896 (freeze-thaw); Jones,
// Schonlau and Welch, J. Global Optim. 13 (1998), 455 (expected improvement);
// Emmerich, PhD thesis, Dortmund 2005 (of the dominated volume).
std::unique_ptr<Policy> model_policy(
    std::vector<Candidate> candidates, int rungs, ModelOptions options);

}  // namespace einforge::search
