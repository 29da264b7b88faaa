#pragma once

#include <unicode/utf8.h>

#include <cstddef>
#include <string_view>

namespace einforge::data {

// Calls valid(run) for each longest run of whole characters, which may be
// empty, and invalid(bytes) for what is between two runs: the bytes that ICU
// takes together for one broken character.
template <typename Valid, typename Invalid>
void for_each_utf8_run(
    std::string_view bytes, const Valid& valid, const Invalid& invalid) {
  std::size_t from = 0;  // where the run starts
  std::size_t next = 0;
  while (next < bytes.size()) {
    const std::size_t start = next;
    UChar32 character = 0;
    U8_NEXT(bytes.data(), next, bytes.size(), character);
    if (character < 0) {
      valid(bytes.substr(from, start - from));
      invalid(bytes.substr(start, next - start));
      from = next;
    }
  }
  valid(bytes.substr(from));
}

}  // namespace einforge::data
