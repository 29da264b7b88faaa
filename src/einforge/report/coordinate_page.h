#pragma once

#include <string>

#include "einforge/base/json.h"

namespace einforge::report {

// One self-contained page of a coordinate check: for each structure its verdict
// and, against width, the RMS of outputs, of their changes and of the effects
// of cores. `checked` is train::to_json()'s.
std::string coordinate_page(const base::Json& checked);

}  // namespace einforge::report
