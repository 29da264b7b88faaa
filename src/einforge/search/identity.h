#pragma once

#include <string>

#include "einforge/store/store.h"
#include "einforge/train/config.h"

namespace einforge::search {

// The id of a trial: the hash of what decides its result, as far as it differs
// from what a record without the key means (train/recorded_config.h). So a key
// that einforge learns later changes no id. Where the data lie, the device and
// how often checkpoints and logs are written decide nothing, so a search goes
// on after its folder or its data moved; nor do the settings of mixtures of
// experts where there are none.
std::string trial_id(const train::TrainConfig& config);

// The id that a recorded trial would get today. Its own where its
// configuration cannot be read any more.
std::string trial_id(const store::Trial& trial);

}  // namespace einforge::search
