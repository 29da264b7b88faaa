#include "cli/spinning.h"

#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <string>
#include <string_view>
#include <thread>

namespace einforge::cli {
namespace {

// Pauses before a thread sleeps, about 40 ns each on today's x86. A small GPT
// on two idle cores trains at 0.75 times the speed of libgomp's own 300,000
// with none, at 0.83 with 1,000 and at 0.96 with 100,000. With a busy loop on
// one core 4,000 train at 0.6 and 50,000 at 0.24 times the speed of none.
constexpr const char* kIdle = "100000";
constexpr const char* kLoaded = "1000";

// The commands that compute.
constexpr std::array<std::string_view, 4> kCommands = {
    "train", "search", "generate", "bench"};

// Threads of all processes that run or wait for a CPU, this one included, or 0
// where the system does not say.
int running_threads() {
  std::ifstream file("/proc/stat");
  std::string word;
  while (file >> word) {
    int count = 0;
    if (word == "procs_running" && file >> count) {
      return count;
    }
  }
  return 0;
}

// Whether something else ran in most of a few moments, 4 ms apart.
bool machine_loaded() {
  constexpr int kMoments = 5;
  int loaded = 0;
  for (int i = 0; i < kMoments; ++i) {
    if (i > 0) {
      std::this_thread::sleep_for(std::chrono::milliseconds(4));
    }
    loaded += running_threads() > 1 ? 1 : 0;
  }
  return 2 * loaded > kMoments;
}

}  // namespace

void limit_spinning(char** arguments) {
  if (arguments[0] == nullptr || arguments[1] == nullptr ||
      std::getenv("OMP_WAIT_POLICY") != nullptr ||
      std::getenv("GOMP_SPINCOUNT") != nullptr) {
    return;
  }
  for (const std::string_view command : kCommands) {
    if (command == arguments[1] &&
        ::setenv("GOMP_SPINCOUNT", machine_loaded() ? kLoaded : kIdle, 1) ==
            0) {
      ::execv("/proc/self/exe", arguments);
    }
  }
}

}  // namespace einforge::cli
