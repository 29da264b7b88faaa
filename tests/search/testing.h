#pragma once

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "einforge/base/random.h"
#include "einforge/data/prepare.h"
#include "einforge/search/config.h"
#include "tests/base/temporary_directory.h"

namespace einforge::search::testing {

using TemporaryFolder = base::testing::TemporaryDirectory;

inline std::string read(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  std::ostringstream text;
  text << stream.rdbuf();
  return text.str();
}

// A data folder of a made-up language whose words repeat, so that a tiny model
// can learn something of it. Returns its path.
inline std::string make_data(
    const TemporaryFolder& folder, std::uint64_t seed = 1) {
  const std::string name = "data" + std::to_string(seed);
  const std::filesystem::path text = folder / (name + ".txt");
  base::Random random(seed);
  std::ofstream stream(text);
  const std::vector<std::string> words = {
      "one", "two", "three", "four", "five", "six", "seven"};
  for (int document = 0; document < 200; ++document) {
    for (int word = 0; word < 40; ++word) {
      stream << words[random.below(words.size())] << ' ';
    }
    stream << "\n\n";
  }
  stream.close();
  data::PrepareOptions options;
  options.inputs = {text.string()};
  options.out = folder / name;
  options.val_share = 0.1;
  options.progress = false;
  data::prepare(options);
  return options.out.string();
}

// Trials of well under a second each.
inline SearchConfig tiny_config(
    const std::string& data, const std::filesystem::path& out) {
  SearchConfig config;
  config.name = "tiny";
  config.out = out.string();
  config.structures = {"dense", "monarch"};
  config.widths = {16, 32};
  config.budget.tokens = 40 * 4 * 16;  // 40 steps
  config.curve_points = 8;
  config.bootstrap = 0;
  config.train.device = "cpu";
  config.train.dtype = "float32";
  config.train.data.path = data;
  config.train.data.batch_size = 4;
  config.train.model.layers = 1;
  config.train.model.context = 16;
  config.train.model.head_width = 8;
  config.train.eval_batches = 2;
  config.train.checkpoint_every = 7;
  return config;
}

// Of regression, which needs no data: four trials.
inline SearchConfig mlp_config(const std::filesystem::path& out) {
  SearchConfig config;
  config.name = "mlp";
  config.out = out.string();
  config.structures = {"dense", "monarch"};
  config.widths = {16, 32};
  config.budget.tokens = 2000;
  config.curve_points = 8;
  config.bootstrap = 0;
  config.train.model.kind = "mlp";
  config.train.model.layers = 2;
  config.train.device = "cpu";
  return config;
}

inline std::string setting(const char* name, const std::string& otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr ? otherwise : value;
}

inline std::filesystem::path source_root() {
  return setting("EINFORGE_SOURCE_DIR", ".");
}

// The einforge program with standard output and error in files.
class Program {
 public:
  Program(
      const std::vector<std::string>& arguments,
      const std::filesystem::path& output,
      rlim_t most_file_bytes = RLIM_INFINITY)
      : output_(output) {
    std::vector<std::string> words = {
        setting("EINFORGE_BIN_DIR", "build/release/bin") + "/einforge"};
    words.insert(words.end(), arguments.begin(), arguments.end());
    std::vector<char*> pointers;
    for (std::string& word : words) {
      pointers.push_back(word.data());
    }
    pointers.push_back(nullptr);
    const std::string out = output_.string();
    const std::string error = out + ".err";
    pid_ = ::fork();
    if (pid_ < 0) {
      throw std::runtime_error("fork");  // a signal to -1 would go to all
    }
    if (pid_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      constexpr int kFlags = O_WRONLY | O_CREAT | O_TRUNC;
      ::dup2(::open(out.c_str(), kFlags, 0666), STDOUT_FILENO);
      ::dup2(::open(error.c_str(), kFlags, 0666), STDERR_FILENO);
      const rlimit limit = {most_file_bytes, most_file_bytes};
      ::setrlimit(RLIMIT_FSIZE, &limit);
      ::execv(pointers[0], pointers.data());
      ::_exit(127);
    }
  }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;
  ~Program() {
    if (!ended_) {
      ::kill(pid_, SIGKILL);
      wait();
    }
  }

  pid_t pid() const { return pid_; }
  void signal(int number) { ::kill(pid_, number); }
  // Waits at most so long; true when it has ended.
  bool wait_for(double seconds) {
    const auto end = std::chrono::steady_clock::now() +
                     std::chrono::duration<double>(seconds);
    while (!ended_ && std::chrono::steady_clock::now() < end) {
      if (::waitpid(pid_, &status_, WNOHANG) == pid_) {
        ended_ = true;
      } else {
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
      }
    }
    return ended_;
  }
  // The exit code, or -1 when a signal ended it.
  int wait() {
    while (!ended_) {
      ended_ = ::waitpid(pid_, &status_, 0) == pid_ || errno == ECHILD;
    }
    return WIFEXITED(status_) ? WEXITSTATUS(status_) : -1;
  }
  std::string out() const { return read(output_); }
  std::string err() const { return read(output_.string() + ".err"); }

 private:
  std::filesystem::path output_;
  pid_t pid_ = -1;
  int status_ = 0;
  bool ended_ = false;
};

}  // namespace einforge::search::testing
