#pragma once

#include <fmt/format.h>

#include <exception>
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

// What to show a user of any exception: one printable line in plain words,
// whatever library threw it. All that prints or stores an error's text goes
// through here.
std::string message_of(const std::exception& error);

// The exit code of a program that ends with it: 2 for what the user can mend,
// else 1.
int exit_code_of(const std::exception& error);

// The message of a library without its marks: "[json.exception.x.1] parse error
// at line 1, ..." becomes "line 1, ...".
std::string plain_message(std::string_view message);

}  // namespace einforge::base
