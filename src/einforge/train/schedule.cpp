#include "einforge/train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace einforge::train {

double rate_factor(
    const ScheduleConfig& config, std::int64_t step, std::int64_t steps) {
  // Steps done once this one is, so that the last one ends at the last rate.
  const auto done = static_cast<double>(step + 1);
  const auto total = static_cast<double>(steps);
  const auto warmup = static_cast<double>(config.warmup(steps));
  if (done <= warmup) {
    return done / warmup;
  }
  if (config.kind == "cosine") {
    const double share = std::min(1.0, (done - warmup) / (total - warmup));
    return config.final_ratio + (1 - config.final_ratio) * 0.5 *
                                    (1 + std::cos(std::numbers::pi * share));
  }
  if (config.kind == "wsd") {
    const double decay = std::floor(config.decay_share * total + 0.5);
    const double into = done - (total - decay);
    if (into > 0) {
      return 1 + (config.final_ratio - 1) * std::min(1.0, into / decay);
    }
  }
  return 1;
}

}  // namespace einforge::train
