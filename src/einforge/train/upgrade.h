#pragma once

#include <cstdint>

#include "einforge/train/checkpoint.h"

namespace einforge::train {

// The version of the checkpoints that are written, and the oldest that is read:
//   1  gains of cores were named gamma_a and gamma_b; the losses of all routers
//      were summed, routers of ffn_moe started at zero, the second FFN matrix
//      had ffn_multiple x base_width as its base, experts of low_rank_moe had
//      rank d^0.5, and where a token took one expert its gate was 1
//   2  what the configuration says
inline constexpr std::int64_t kVersion = 2;
inline constexpr std::int64_t kOldestVersion = 1;

// Turns a checkpoint of an older version, as read, into one of this version
// that means the same: keys that the configuration did not have then get the
// values that they stood for. Throws base::InvalidInput where there is none.
void upgrade(std::int64_t version, Checkpoint& checkpoint);

}  // namespace einforge::train
