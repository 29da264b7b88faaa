#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "tests/base/temporary_directory.h"

namespace einforge::train {

using TemporaryFolder = base::testing::TemporaryDirectory;

// What ctest tells the tests; the defaults are for running by hand from the
// root of the source tree.
inline std::string setting(const char* name, const std::string& otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr ? otherwise : value;
}
inline std::filesystem::path source_folder() {
  return setting("EINFORGE_SOURCE_DIR", ".");
}
inline std::string einforge_program() {
  return setting("EINFORGE_BIN_DIR", "build/release/bin") + "/einforge";
}

struct CommandResult {
  int code = -1;
  std::string output;  // both streams
};

inline CommandResult run_command(const std::string& command) {
  CommandResult result;
  std::FILE* pipe = ::popen(("(" + command + ") 2>&1").c_str(), "r");
  if (pipe == nullptr) {
    return result;
  }
  std::array<char, 4096> buffer;
  std::size_t count = 0;
  while ((count = std::fread(buffer.data(), 1, buffer.size(), pipe)) > 0) {
    result.output.append(buffer.data(), count);
  }
  const int status = ::pclose(pipe);
  result.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return result;
}

// Runs a Python program with the interpreter that has torch, safetensors and
// tensorboard: independent readers of our files.
inline CommandResult run_python(
    const std::filesystem::path& folder, const std::string& program) {
  const std::filesystem::path script = folder / "script.py";
  std::ofstream(script) << program;
  const std::string python = setting("EINFORGE_PYTHON", ".venv/bin/python");
  return run_command(python + " " + script.string());
}

}  // namespace einforge::train
