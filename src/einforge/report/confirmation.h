#pragma once

#include <string>

#include "einforge/base/json.h"

namespace einforge::report {

// What runs on fresh seeds said of the best of a search, as its store's
// metadata have it; empty where there were none.
std::string confirmation(const base::Json& metadata);

}  // namespace einforge::report
