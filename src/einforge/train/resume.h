#pragma once

#include <string>

#include "einforge/base/json.h"
#include "einforge/train/checkpoint.h"
#include "einforge/train/config.h"

namespace einforge::train {

// In what a checkpoint belongs to another run, an empty string if in nothing:
// one line that names the key and both values, of the model, the optimiser, the
// batch size, the seed, the data or how FLOPs are counted. Steps, schedule,
// intervals, device, dtype and the place of the data may change.
std::string difference(
    const TrainConfig& config,
    const base::Json& task_identity,
    const Checkpoint& checkpoint);

}  // namespace einforge::train
