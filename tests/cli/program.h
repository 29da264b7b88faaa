#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace einforge::cli {

struct RunResult {
  int exit_code = -1;  // 128 + signal when a signal ended it
  std::string out;
  std::string err;
};

struct RunLimits {
  // No file may grow beyond this: a full disk for one file. -1: no limit.
  std::int64_t file_bytes = -1;
};

// Runs the built einforge with `arguments` and nothing on standard input.
RunResult run_einforge(
    const std::vector<std::string>& arguments, const RunLimits& limits = {});

// Runs any program in the same way.
RunResult run_program(
    const std::vector<std::string>& command, const RunLimits& limits = {});

// The built einforge.
std::string einforge_path();

}  // namespace einforge::cli
