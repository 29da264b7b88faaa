#pragma once

#include "einforge/base/json.h"
#include "einforge/train/config.h"

namespace einforge::train {

// A configuration as it was recorded with a trial or a checkpoint, perhaps by
// an earlier einforge: a key that it does not have has the value by which
// einforge acted before it had that key, whatever the key's default is today.
// Throws base::InvalidInput for an unknown key or a value of the wrong type.
TrainConfig recorded_config(const base::Json& json);

}  // namespace einforge::train
