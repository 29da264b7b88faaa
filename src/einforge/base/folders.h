#pragma once

#include <filesystem>
#include <vector>

namespace einforge::base {

// What einforge keeps in a folder of its own.
enum class FolderKind { kData, kRun, kSearch };

// Throws InvalidInput where the folder holds files of another kind, by their
// names: they are not to be replaced, nor do others belong among them.
void check_folder(const std::filesystem::path& folder, FolderKind wanted);

// The folders that `path` needs and that are not there when this is made.
class NewFolders {
 public:
  explicit NewFolders(const std::filesystem::path& path);

  // Whether `path` itself was not there.
  bool any() const { return !folders_.empty(); }
  // Removes those of them that were made meanwhile and are empty.
  void remove_empty() const noexcept;

 private:
  std::vector<std::filesystem::path> folders_;  // outermost first
};

}  // namespace einforge::base
