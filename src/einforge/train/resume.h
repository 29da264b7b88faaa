#pragma once

#include "einforge/base/json.h"
#include "einforge/train/checkpoint.h"
#include "einforge/train/config.h"

namespace einforge::train {

// Throws base::InvalidInput, naming the key and both values, when the
// checkpoint belongs to another run: another model, optimiser, batch size,
// seed or data. Steps, schedule, intervals, device, dtype and the place of the
// data may change.
void check_same_run(
    const TrainConfig& config,
    const base::Json& task_identity,
    const Checkpoint& checkpoint);

}  // namespace einforge::train
