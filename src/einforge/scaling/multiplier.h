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

// Over the losses that both frontiers reach, the early training of the
// smallest run (or, where one run makes the whole frontier, all but the last
// tenth of its compute) left out. When the worse structure ends above the
// baseline's compute-optimal stretch, over what it reached with the last nine
// tenths of its compute. Absent when the frontiers have no loss in common.
std::optional<Multiplier> compute_multiplier(
    const Frontier& baseline, const Frontier& structure);

}  // namespace einforge::scaling
