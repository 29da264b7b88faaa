#pragma once

#include <cstdint>

#include "einforge/train/config.h"

namespace einforge::train {

// What multiplies the peak learning rate in step `step` (from 0) of `steps`:
// linear warm-up (step + 1) / warmup(steps), then
//   constant: 1
//   cosine:   half a cosine from 1 to final_ratio in the last step
//   wsd:      1, and over the last decay_share of all steps linearly down to
//             final_ratio in the last step (arXiv 2405.18392, section 4)
double rate_factor(
    const ScheduleConfig& config, std::int64_t step, std::int64_t steps);

}  // namespace einforge::train
