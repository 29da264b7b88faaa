#pragma once

#include <string>
#include <vector>

#include "einforge/base/json.h"
#include "einforge/search/config.h"

namespace einforge::search {

// The cores that this process may use, shared evenly among the processes that
// train; at least one.
int threads_per_process(const SearchConfig& config);

// Of all processes that train a worker's trial.
int threads_per_worker(const SearchConfig& config);

// What the search runs on, for the report.
base::Json describe_hardware(const SearchConfig& config);

// A comma-separated list of devices for each worker, which take them in turn.
std::vector<std::string> device_groups(const SearchConfig& config);

// CUDA_VISIBLE_DEVICES under which the processes of a group have its GPUs in
// their order. `visible` is what this process has: "" where all are.
std::string visible_devices(
    const std::string& group, const std::string& visible);

}  // namespace einforge::search
