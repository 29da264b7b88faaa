#pragma once

#include <cstdint>

#include "einforge/base/json.h"

namespace einforge::search {

// The cores that this process may use, shared evenly among `workers`; at least
// one.
int threads_per_worker(std::int64_t workers);

// What the search runs on, for the report.
base::Json describe_hardware(std::int64_t workers);

}  // namespace einforge::search
