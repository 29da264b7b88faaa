#pragma once

#include <fmt/format.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "einforge/base/text.h"

namespace einforge::data {

inline std::string setting(const char* name, const char* otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr ? otherwise : value;
}

// Runs a script of the source folder by the tests' Python; returns its status.
inline int run_python(const std::vector<std::string>& words) {
  std::string command = fmt::format(
      "{} {}",
      base::shell_word(setting("EINFORGE_PYTHON", "python3")),
      base::shell_word(fmt::format(
          "{}/{}", setting("EINFORGE_SOURCE_DIR", "."), words.front())));
  for (std::size_t i = 1; i < words.size(); ++i) {
    command += fmt::format(" {}", base::shell_word(words[i]));
  }
  const int status = std::system((command + " > /dev/null").c_str());
  return status == -1 ? -1 : status >> 8;
}

}  // namespace einforge::data
