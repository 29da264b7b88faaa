#pragma once

#include <filesystem>
#include <map>
#include <mutex>
#include <optional>
#include <string>

namespace einforge::ops {

// Names chosen for problems, kept in one JSON file that processes share: an
// object of versions, each an object of problems and their choice.
class ChoiceCache {
 public:
  // Reads what `file` holds for `version`. A file that cannot be read or
  // understood counts as empty.
  ChoiceCache(std::filesystem::path file, std::string version);

  std::optional<std::string> find(const std::string& problem) const;
  // Adds a choice to what the file holds by now. A file that cannot be
  // written is reported once, and the choice kept in memory.
  void insert(const std::string& problem, const std::string& choice);

 private:
  std::filesystem::path file_;
  std::string version_;
  mutable std::mutex mutex_;
  std::map<std::string, std::string> choices_;
  bool reported_ = false;
};

// ${EINFORGE_CACHE_DIR:-${XDG_CACHE_HOME:-~/.cache}/einforge}.
std::filesystem::path cache_directory();

}  // namespace einforge::ops
