#pragma once

#include <optional>

#include "einforge/scaling/frontier.h"

namespace einforge::scaling {

// How much less compute `structure` needs than `baseline` at equal loss.
struct Multiplier {
  double log_value = 0;  // mean of log(baseline's compute / structure's)
  // Log losses between which it was taken, evenly.
  double from = 0;
  double to = 0;
  // Taken above the losses at which the baseline is compute-optimal, for want
  // of lower ones in common: says little about where the baseline ends.
  bool early = false;
};

// Over the losses that both frontiers reach where both are compute-optimal
// (FrontierCheck::optimal_from). When the worse structure ends above the
// baseline's compute-optimal segment, over what it reached with the last nine
// tenths of its compute. Absent when the frontiers have no loss in common.
std::optional<Multiplier> compute_multiplier(
    const Frontier& baseline,
    const FrontierCheck& baseline_check,
    const Frontier& structure,
    const FrontierCheck& structure_check);

// Mean over log losses, evenly from `from` down to `to`, of the log of the
// baseline's compute / the structure's. Both frontiers must reach them.
double mean_log_ratio(
    const Frontier& baseline,
    const Frontier& structure,
    double from,
    double to);

}  // namespace einforge::scaling
