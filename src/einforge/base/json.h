#pragma once

#include <nlohmann/json.hpp>

namespace einforge::base {

// Insertion-ordered, so that a written record reads in the order of its struct.
using Json = nlohmann::ordered_json;

}  // namespace einforge::base
