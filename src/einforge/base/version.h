#pragma once

#include <string>

namespace einforge::base {

// Of einforge: "0.1.0".
std::string version();

// What compiled it: "g++ 12.2.0".
std::string compiler();

}  // namespace einforge::base
