#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

// What libFuzzer calls with each input.
extern "C" int LLVMFuzzerTestOneInput(
    const std::uint8_t* data, std::size_t size);

namespace einforge::fuzz {

// Inputs to begin with, which each target gives.
std::vector<std::string> seeds();

// Ends the program, so that libFuzzer keeps the input, unless it holds.
void require(bool holds, const char* property);

}  // namespace einforge::fuzz
