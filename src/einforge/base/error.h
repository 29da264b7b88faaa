#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

namespace einforge::base {

// What the user gave us cannot be used: a bad flag, key, file or value. The
// message says what was expected and what came; the CLI prints it on one line
// and exits 2.
class InvalidInput : public std::invalid_argument {
 public:
  using std::invalid_argument::invalid_argument;
};

// The world failed us: a full disk, a read-only directory, a lock that never
// came. The CLI prints it on one line and exits 1.
class IoError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Throws InvalidInput with a formatted message unless `ok`.
template <typename... Args>
void check(bool ok, fmt::format_string<Args...> format, Args&&... args) {
  if (!ok) {
    throw InvalidInput(fmt::format(format, std::forward<Args>(args)...));
  }
}

// Throws IoError ending in the system's own words for `error_number`.
[[noreturn]] void throw_io_error(std::string_view what, int error_number);

}  // namespace einforge::base
