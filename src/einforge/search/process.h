#pragma once

#include <sys/types.h>

#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "einforge/base/json.h"

// Worker processes: who is alive, and how they and the search talk.
namespace einforge::search {

// "host:pid:start", start being the process's start time, so that a later
// process with the same id is not taken for it. Empty when there is none.
std::string process_name(pid_t pid);

// Whether the process so named still runs on this machine. A zombie does not.
bool process_alive(std::string_view name);

// A child process that reads commands from its standard input and writes one
// JSON event a line to its standard output; its standard error is appended to
// a log file. It dies with this process.
class Child {
 public:
  struct Options {
    std::vector<std::string> command;
    // Added to this process's environment.
    std::vector<std::pair<std::string, std::string>> environment;
    std::filesystem::path log;
  };
  // Throws base::IoError when it cannot be started.
  explicit Child(const Options& options);
  Child(Child&& other) noexcept;
  Child& operator=(Child&& other) noexcept;
  // Kills the process if it still runs, and waits for it.
  ~Child();

  pid_t pid() const { return pid_; }
  const std::string& name() const { return name_; }
  // To wait for events with poll(2).
  int event_file() const { return output_; }

  // The whole lines that have come since the last call. Never blocks.
  std::vector<base::Json> events();
  // Sends a line; the child may be gone, which exited() will tell.
  void send(std::string_view line);
  // SIGTERM, and the end of its input in case it waits for a command.
  void ask_to_stop();
  void kill();
  // Whether the process has exited; `how` then says "exit code 1" or
  // "signal 9 (Killed)".
  bool exited(std::string& how);

 private:
  pid_t pid_ = -1;
  std::string name_;
  int input_ = -1;
  int output_ = -1;
  std::string pending_;
};

}  // namespace einforge::search
