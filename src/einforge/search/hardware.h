#pragma once

#include "einforge/base/json.h"

namespace einforge::search {

// Cores that this process may use.
int available_cores();

// What the search ran on, for the report.
base::Json describe_hardware(int workers, int threads);

}  // namespace einforge::search
