#include "cli/launch.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "einforge/base/console.h"
#include "einforge/base/error.h"
#include "einforge/base/listener.h"
#include "einforge/base/process.h"
#include "einforge/distributed/place.h"

namespace einforge::cli {
namespace {

using Clock = std::chrono::steady_clock;

constexpr const char* kMark = "EINFORGE_LAUNCHED";

struct Child {
  pid_t pid = -1;
  bool running = true;
};

class Children {
 public:
  ~Children() {
    signal_all(SIGKILL);
    for (Child& child : children_) {
      if (child.running) {
        ::waitpid(child.pid, nullptr, 0);
      }
    }
  }

  // Starts one, which inherits the descriptor `kept`.
  void start(
      const std::vector<std::string>& arguments,
      const std::vector<std::string>& environment,
      std::optional<int> kept) {
    std::vector<char*> argv;
    std::vector<char*> envp;
    for (const std::string& word : arguments) {
      argv.push_back(const_cast<char*>(word.c_str()));
    }
    for (const std::string& word : environment) {
      envp.push_back(const_cast<char*>(word.c_str()));
    }
    argv.push_back(nullptr);
    envp.push_back(nullptr);
    const pid_t parent = ::getpid();
    const pid_t pid = ::fork();
    if (pid < 0) {
      base::throw_io_error("cannot start a process", errno);
    }
    if (pid == 0) {
      // A terminal's Ctrl-C comes through the parent alone.
      ::setpgid(0, 0);
      ::prctl(PR_SET_PDEATHSIG, SIGTERM);
      if (kept) {
        ::fcntl(*kept, F_SETFD, 0);
      }
      if (::getppid() == parent) {
        ::execve("/proc/self/exe", argv.data(), envp.data());
      }
      ::_exit(127);
    }
    children_.push_back({.pid = pid});
  }

  void signal_all(int signal) const {
    for (const Child& child : children_) {
      if (child.running) {
        ::kill(child.pid, signal);
      }
    }
  }

  bool running() const {
    return std::ranges::any_of(children_, &Child::running);
  }

  // Calls ended(rank, status) for those that have ended since the last call.
  template <typename F>
  void poll(F ended) {
    for (std::size_t rank = 0; rank < children_.size(); ++rank) {
      Child& child = children_[rank];
      int status = 0;
      if (child.running && ::waitpid(child.pid, &status, WNOHANG) > 0) {
        child.running = false;
        ended(static_cast<int>(rank), status);
      }
    }
  }

 private:
  std::vector<Child> children_;
};

// The words of this process.
std::vector<std::string> command_line() {
  std::ifstream file("/proc/self/cmdline", std::ios::binary);
  std::vector<std::string> words;
  for (std::string word; std::getline(file, word, '\0');) {
    words.push_back(word);
  }
  return words;
}

std::vector<std::string> environment_with(
    const std::vector<std::pair<std::string, std::string>>& own) {
  std::vector<std::string> all;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    const std::string_view name = text.substr(0, text.find('='));
    if (std::ranges::none_of(
            own, [&](const auto& pair) { return pair.first == name; })) {
      all.emplace_back(text);
    }
  }
  for (const auto& [name, value] : own) {
    all.push_back(fmt::format("{}={}", name, value));
  }
  return all;
}

}  // namespace

int launch(int processes) {
  constexpr auto kGrace = std::chrono::seconds(6);
  const std::vector<std::string> command = command_line();
  std::optional<base::Listener> listener(std::in_place);
  std::vector<std::pair<std::string, std::string>> own = {
      {"WORLD_SIZE", fmt::format("{}", processes)},
      {"MASTER_ADDR", "127.0.0.1"},
      {"MASTER_PORT", fmt::format("{}", listener->port())},
      {kMark, "1"},
      {"RANK", ""},
      {"LOCAL_RANK", ""},
      {distributed::kStoreSocket, fmt::format("{}", listener->get())}};
  if (std::getenv("OMP_NUM_THREADS") == nullptr) {
    const auto cpus = static_cast<int>(std::thread::hardware_concurrency());
    own.emplace_back(
        "OMP_NUM_THREADS", fmt::format("{}", std::max(1, cpus / processes)));
  }
  const base::StopSignals signals;
  Children children;
  for (int rank = 0; rank < processes; ++rank) {
    for (auto& [name, value] : own) {
      if (name == "RANK" || name == "LOCAL_RANK") {
        value = fmt::format("{}", rank);
      }
    }
    children.start(
        command,
        environment_with(own),
        rank == 0 ? std::optional(listener->get()) : std::nullopt);
  }
  listener.reset();  // rank 0's alone: it ends with it
  int code = 0;
  bool stopping = false;
  Clock::time_point failed;
  while (children.running()) {
    children.poll([&](int rank, int status) {
      if (status == 0) {
        return;
      }
      const bool first = code == 0;
      if (WIFSIGNALED(status)) {
        // Before there is a run to stop, the signal itself ends a process.
        code = !first ? code : stopping ? 130 : 1;
        if (first && !stopping) {
          base::note(
              "einforge: error: rank {} of {} was ended by signal {} ({})\n",
              rank,
              processes,
              WTERMSIG(status),
              ::strsignal(WTERMSIG(status)));
        }
      } else {
        // Who refuses the run says 2; the others only that they lost it.
        const int exit_code = WEXITSTATUS(status);
        code = first || exit_code == 2 ? exit_code : code;
      }
      failed = first ? Clock::now() : failed;
    });
    if (!stopping && base::StopSignals::requested()) {
      stopping = true;
      children.signal_all(SIGTERM);
    }
    // The others know, or are stopped themselves.
    if (code != 0 && Clock::now() - failed > kGrace) {
      children.signal_all(SIGKILL);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return code;
}

bool is_launched() {
  return std::getenv(kMark) != nullptr;
}

}  // namespace einforge::cli
