#include "cli/spinning.h"

#include <unistd.h>

#include <array>
#include <cstdlib>
#include <string_view>

namespace einforge::cli {
namespace {

// Pauses before a thread sleeps; about 40 ns each on today's x86.
constexpr const char* kSpins = "2000";

// The commands that compute.
constexpr std::array<std::string_view, 4> kCommands = {
    "train", "search", "generate", "bench"};

}  // namespace

void limit_spinning(char** arguments) {
  if (arguments[0] == nullptr || arguments[1] == nullptr ||
      std::getenv("OMP_WAIT_POLICY") != nullptr ||
      std::getenv("GOMP_SPINCOUNT") != nullptr) {
    return;
  }
  for (const std::string_view command : kCommands) {
    if (command == arguments[1] && ::setenv("GOMP_SPINCOUNT", kSpins, 1) == 0) {
      ::execv("/proc/self/exe", arguments);
    }
  }
}

}  // namespace einforge::cli
