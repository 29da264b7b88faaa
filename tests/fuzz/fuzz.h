#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

// What a fuzz target defines: the function that libFuzzer would call, and
// valid inputs for the driver to start from.
extern "C" int LLVMFuzzerTestOneInput(
    const std::uint8_t* data, std::size_t size);

namespace einforge::fuzz {

// Optional: without it the driver starts from nothing.
[[gnu::weak]] std::vector<std::string> seeds();

// A property that must hold of every input; ends the program if it does not.
void require(bool holds, const char* property);

}  // namespace einforge::fuzz
