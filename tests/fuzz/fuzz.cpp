#include "tests/fuzz/fuzz.h"

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>

// Before libFuzzer reads the corpus: its first folder gets the seeds.
extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  namespace fs = std::filesystem;
  for (int i = 1; i < *argc; ++i) {
    if (fs::is_directory((*argv)[i])) {
      int number = 0;
      for (const std::string& seed : einforge::fuzz::seeds()) {
        const fs::path name = "seed_" + std::to_string(++number);
        std::ofstream((*argv)[i] / name, std::ios::binary) << seed;
      }
      break;
    }
  }
  return 0;
}

void einforge::fuzz::require(bool holds, const char* property) {
  if (!holds) {
    std::fprintf(stderr, "does not hold: %s\n", property);
    std::abort();
  }
}
