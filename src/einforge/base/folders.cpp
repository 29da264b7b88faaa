#include "einforge/base/folders.h"

#include <unistd.h>

#include <array>
#include <string_view>
#include <system_error>

#include "einforge/base/error.h"

namespace einforge::base {
namespace {

namespace fs = std::filesystem;

struct Mark {
  const char* name;
  FolderKind kind;
};

constexpr std::array kMarks = {
    Mark{"config.json", FolderKind::kRun},
    Mark{"log.jsonl", FolderKind::kRun},
    Mark{"checkpoints", FolderKind::kRun},
    Mark{"model.safetensors", FolderKind::kRun},
    Mark{"trials.db", FolderKind::kSearch},
    Mark{"meta.json", FolderKind::kData},
    Mark{"train.bin", FolderKind::kData},
    Mark{"val.bin", FolderKind::kData}};

std::string_view expected(FolderKind kind) {
  switch (kind) {
    case FolderKind::kData:
      return "a data folder";
    case FolderKind::kRun:
      return "that of a training run";
    case FolderKind::kSearch:
      return "that of a search";
  }
  return "";
}

}  // namespace

void check_folder(const fs::path& folder, FolderKind wanted) {
  for (const Mark& mark : kMarks) {
    std::error_code ignored;
    check(
        mark.kind == wanted || !fs::exists(folder / mark.name, ignored),
        "'{}': expected a new folder or {}; got {} (it holds {})",
        folder.string(),
        expected(wanted),
        mark.kind == FolderKind::kData
            ? "a data folder"
            : "the folder of a training run or search",
        mark.name);
  }
}

NewFolders::NewFolders(const fs::path& path) {
  std::error_code ignored;
  for (fs::path folder = fs::absolute(path, ignored).lexically_normal();
       folder.has_relative_path() && !fs::exists(folder, ignored);
       folder = folder.parent_path()) {
    if (folder.has_filename()) {
      folders_.insert(folders_.begin(), folder);
    }
  }
}

void NewFolders::remove_empty() const noexcept {
  for (auto folder = folders_.rbegin(); folder != folders_.rend(); ++folder) {
    ::rmdir(folder->c_str());  // only ever an empty folder
  }
}

}  // namespace einforge::base
