#pragma once

#include <filesystem>
#include <map>
#include <mutex>
#include <optional>
#include <string>

namespace einforge::ops {

// What was measured to be the fastest for a problem.
struct Choice {
  std::string name;
  double milliseconds = 0;
  // Whether its runs took nearly the same time. Where they did not, something
  // else ran on the device, and the next process measures again.
  bool is_settled = true;
};

// Choices by problem, in one JSON file that processes share: an object of
// versions, each an object of problems and their choice. Entries are merged
// into what the file holds, under a lock, and the file is replaced in one step.
class ChoiceCache {
 public:
  // Reads what `file` holds for `version`. A file that cannot be read or
  // understood counts as empty.
  ChoiceCache(std::filesystem::path file, std::string version);

  // What is known, by this process or at its start by others.
  std::optional<Choice> find(const std::string& problem) const;
  // Whether this process inserted it: then it holds, settled or not, so that a
  // process does not change kernels while it runs.
  bool is_own(const std::string& problem) const;
  // Reads again what other processes wrote; what is own stays.
  void refresh();
  // Adds a choice and returns what holds from now on: another process's where
  // that is settled and this is not. A file that cannot be written is reported
  // once, and the choice remembered by this process alone.
  std::string insert(const std::string& problem, const Choice& choice);

 private:
  struct Entry {
    Choice choice;
    bool is_own = false;
  };

  void read_entries();

  std::filesystem::path file_;
  std::string version_;
  mutable std::mutex mutex_;
  std::map<std::string, Entry> entries_;
  bool reported_ = false;
};

// ${EINFORGE_CACHE_DIR:-${XDG_CACHE_HOME:-~/.cache}/einforge}.
std::filesystem::path cache_directory();

}  // namespace einforge::ops
