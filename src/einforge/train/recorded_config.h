#pragma once

#include "einforge/base/json.h"
#include "einforge/train/config.h"

namespace einforge::train {

// A configuration as it was recorded with a trial or a checkpoint, perhaps by
// an earlier einforge: a key that it does not have has the value by which
// einforge acted before it had that key, whatever the key's default is today.
// Throws base::InvalidInput for an unknown key or a value of the wrong type.
TrainConfig recorded_config(const base::Json& json);

// Turns a configuration of a checkpoint of version 1 (train/upgrade.h), or of a
// trial of that time, into one of today that means the same. Throws
// base::InvalidInput where there is none, base::Json::exception where it is no
// such configuration.
void upgrade_config(base::Json& config);

}  // namespace einforge::train
