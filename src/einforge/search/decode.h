#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "einforge/search/costs.h"

namespace einforge::search {

// Milliseconds that one token takes through each layer, by its key: what a user
// gets in inference, by the timer of `einforge bench --suite decode`. A layer
// that fails to run has none. `on_layer(done, all)` is called after each.
std::map<std::string, double> measure_decode(
    const std::vector<DecodeLayer>& layers,
    const train::TrainConfig& config,
    int threads,
    const std::function<void(int, int)>& on_layer);

}  // namespace einforge::search
