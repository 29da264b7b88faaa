// Runs a fuzz target without libFuzzer, which g++ lacks:
//
//   TARGET_fuzz SECONDS [FILE...]   mutates the seeds, and the files
//   TARGET_fuzz 0 FILE...           only runs the files: repeats a crash
//
// The libraries under test are compiled with -fsanitize-coverage=trace-pc, so
// that an input that reaches new code joins the corpus. An input that ends the
// program is left in crash-TARGET.
#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "einforge/base/error.h"
#include "einforge/base/random.h"
#include "tests/fuzz/fuzz.h"

extern "C" void __sanitizer_set_death_callback(void (*callback)());
extern "C" const char* __asan_default_options() {
  // Signals of a stack overflow or an abort must reach the death callback.
  return "handle_abort=1:handle_segv=1:detect_stack_use_after_return=0:"
         "allocator_may_return_null=1:max_allocation_size_mb=512";
}

// A runtime of its own, which knows nothing of the callback; the signal does.
extern "C" const char* __ubsan_default_options() {
  return "abort_on_error=1:print_stacktrace=1";
}

namespace {

using einforge::base::Random;

constexpr std::size_t kLongestInput = 1 << 16;
constexpr unsigned kSlowestInput = 10;  // seconds

// One bit a hashed edge, as in AFL: cheap, and collisions only lose interest.
std::array<bool, 1 << 16> covered;
std::size_t covered_count = 0;
std::uintptr_t previous_place = 0;

std::string current_input;
std::string crash_path;

// In a signal handler: system calls only.
void save_crash() {
  const int fd = ::open(crash_path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
  if (fd >= 0) {
    static_cast<void>(!::write(fd, current_input.data(), current_input.size()));
    ::close(fd);
  }
  std::fprintf(stderr, "the input is in %s\n", crash_path.c_str());
}

void too_slow(int) {
  constexpr char kMessage[] = "an input took too long\n";
  static_cast<void>(!::write(STDERR_FILENO, kMessage, sizeof(kMessage) - 1));
  save_crash();
  std::_Exit(1);
}

// True when the input reached code that none before it did.
bool run(std::string input) {
  current_input = std::move(input);
  const std::size_t before = covered_count;
  previous_place = 0;
  ::alarm(kSlowestInput);
  try {
    LLVMFuzzerTestOneInput(
        reinterpret_cast<const std::uint8_t*>(current_input.data()),
        current_input.size());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "uncaught exception: %s\n", error.what());
    std::abort();
  }
  ::alarm(0);
  return covered_count > before;
}

// Pieces that random bytes would not find.
const std::vector<std::string> kTokens = {
    "0",           "-1",      "1e999",
    "nan",         "inf",     "9223372036854775808",
    "0.33",        "true",    "null",
    "\"",          "[",       "]",
    "{",           "}",       "=",
    ":",           ",",       ".",
    "\n",          "\\u0000", "\xff",
    "\u00e9",      "\u2003",  "[[",
    "__metadata__"};

std::size_t place(Random& random, std::size_t size) {
  return static_cast<std::size_t>(random.below(size + 1));
}

std::string mutate(std::string text, const std::string& other, Random& random) {
  const std::size_t at = place(random, text.size());
  const std::size_t length =
      std::min(text.size() - at, static_cast<std::size_t>(random.below(16)));
  switch (random.below(8)) {
    case 0:
      if (at < text.size()) {
        text[at] = static_cast<char>(text[at] ^ (1 << random.below(8)));
      }
      break;
    case 1:
      text.insert(at, 1, static_cast<char>(random.below(256)));
      break;
    case 2:
      text.erase(at, length);
      break;
    case 3:
      text.insert(at, kTokens[random.below(kTokens.size())]);
      break;
    case 4:
      text.replace(at, length, kTokens[random.below(kTokens.size())]);
      break;
    case 5: {  // deep nesting and long lists
      const std::string piece = text.substr(at, length);
      const std::uint64_t times =
          random.below(16) == 0 ? 20'000 : random.below(8);
      std::string repeated;
      while (repeated.size() < times * piece.size() &&
             repeated.size() < kLongestInput) {
        repeated += piece;
      }
      text.insert(at, repeated);
      break;
    }
    case 6:
      text = text.substr(0, at) + other.substr(place(random, other.size()));
      break;
    default:
      text.insert(at, text.substr(place(random, text.size()), length));
      break;
  }
  text.resize(std::min(text.size(), kLongestInput));
  return text;
}

void fuzz(double seconds, std::vector<std::string> corpus) {
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::duration<double>(seconds);
  const auto seed =
      static_cast<std::uint64_t>(Clock::now().time_since_epoch().count());
  Random random(seed);
  std::uint64_t runs = 0;
  while (Clock::now() < end) {
    std::string input = corpus[random.below(corpus.size())];
    const std::string& other = corpus[random.below(corpus.size())];
    for (std::uint64_t i = 0; i <= random.below(4); ++i) {
      input = mutate(std::move(input), other, random);
    }
    ++runs;
    if (run(std::move(input))) {
      corpus.push_back(current_input);
    }
  }
  std::printf(
      "%llu runs, %zu edges, %zu inputs in the corpus, seed %llu\n",
      static_cast<unsigned long long>(runs),
      covered_count,
      corpus.size(),
      static_cast<unsigned long long>(seed));
}

}  // namespace

// g++ calls this at every basic block of what is compiled with trace-pc.
extern "C" void __sanitizer_cov_trace_pc() {
  const auto here =
      reinterpret_cast<std::uintptr_t>(__builtin_return_address(0));
  bool& seen = covered[(here ^ previous_place) % covered.size()];
  covered_count += !seen;
  seen = true;
  previous_place = here >> 1;
}

void einforge::fuzz::require(bool holds, const char* property) {
  if (!holds) {
    std::fprintf(stderr, "does not hold: %s\n", property);
    std::abort();
  }
}

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: %s SECONDS [FILE...]\n", argv[0]);
    return 2;
  }
  crash_path = "crash-" + std::filesystem::path(argv[0]).filename().string();
  __sanitizer_set_death_callback(save_crash);
  std::signal(SIGALRM, too_slow);
  std::vector<std::string> corpus = {""};
  if (einforge::fuzz::seeds != nullptr) {
    for (std::string& seed : einforge::fuzz::seeds()) {
      corpus.push_back(std::move(seed));
    }
  }
  for (int i = 2; i < argc; ++i) {
    std::ifstream file(argv[i], std::ios::binary);
    corpus.emplace_back(
        std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  for (const std::string& input : corpus) {
    run(input);
  }
  if (const double seconds = std::atof(argv[1]); seconds > 0) {
    fuzz(seconds, std::move(corpus));
  }
  return 0;
}
