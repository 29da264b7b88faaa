#pragma once

#include <string>
#include <string_view>

namespace einforge::base {

// The 128-bit XXH3 hash of the bytes as 32 hexadecimal digits.
std::string hash_hex(std::string_view bytes);

}  // namespace einforge::base
