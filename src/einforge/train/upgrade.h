#pragma once

#include <cstdint>

#include "einforge/train/checkpoint.h"

namespace einforge::train {

// The version of the checkpoints that are written, and the oldest that is read:
//   1  gains of cores were named gamma_a and gamma_b
//   2  gain_a and gain_b
inline constexpr std::int64_t kVersion = 2;
inline constexpr std::int64_t kOldestVersion = 1;

// Turns a checkpoint of an older version, as read, into one of this version
// that means the same.
void upgrade(std::int64_t version, Checkpoint& checkpoint);

}  // namespace einforge::train
