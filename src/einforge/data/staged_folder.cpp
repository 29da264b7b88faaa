#include "einforge/data/staged_folder.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <string_view>

#include "einforge/base/error.h"
#include "einforge/base/files.h"
#include "einforge/base/json.h"
#include "einforge/data/library_tokenizer.h"
#include "einforge/data/metadata.h"

namespace einforge::data {
namespace {

namespace fs = std::filesystem;

constexpr const char* kIncomplete = ".incomplete";
constexpr const char* kComplete = ".complete";

[[noreturn]] void throw_cannot_write(const fs::path& path, int error) {
  base::throw_io_error(fmt::format("cannot write '{}'", path.string()), error);
}

void move(const fs::path& from, const fs::path& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) {
    throw_cannot_write(to, errno);
  }
}

void remove_tree(const fs::path& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (error) {
    base::throw_io_error(
        fmt::format("cannot remove '{}'", path.string()), error.value());
  }
}

// Renames in it are on the disk when this returns.
void sync_folder(const fs::path& folder) {
  const int descriptor =
      ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor >= 0) {
    ::fsync(descriptor);
    ::close(descriptor);
  }
}

// Moves what counts to its place, or what is left of it.
void move_complete(const fs::path& folder) {
  const fs::path complete = folder / kComplete;
  std::error_code ignored;
  if (!fs::exists(complete, ignored)) {
    return;
  }
  for (const char* name : kDataFiles) {
    if (fs::exists(complete / name, ignored)) {
      move(complete / name, folder / name);
    }
  }
  sync_folder(folder);
  remove_tree(complete);
}

bool is_ours(const fs::path& meta, StagedFolder::Kind kind) {
  std::error_code ignored;
  if (!fs::is_regular_file(meta, ignored)) {
    return false;
  }
  try {
    const base::Json json = read_metadata_file(meta);
    return is_metadata(json) &&
           is_imported(json) == (kind == StagedFolder::Kind::kImported);
  } catch (const base::InvalidInput&) {
    return false;
  }
}

// nanoGPT's files have the same names; they are not ours to replace. Nor does
// a data folder belong among the files of a run.
void check_replaceable(const fs::path& folder, StagedFolder::Kind kind) {
  base::check_folder(folder, base::FolderKind::kData);
  const bool imported = kind == StagedFolder::Kind::kImported;
  const char* command = imported ? "import" : "prepare";
  std::error_code ignored;
  // meta.json.tmp: what version 0.1 left when it was killed at its end.
  if (is_ours(find_data_file(folder, "meta.json"), kind) ||
      is_ours(folder / "meta.json.tmp", kind)) {
    return;
  }
  for (const std::string_view name : kDataFiles) {
    if (imported && name.ends_with(".bin")) {
      continue;  // it may be what is imported, and is not written
    }
    base::check(
        !fs::exists(folder / name, ignored),
        "'{}': expected a new folder or one that `data {}` made; got one with "
        "a {} of another origin",
        folder.string(),
        command,
        name);
  }
}

void remove_stale(const fs::path& folder) {
  remove_tree(folder / kIncomplete);
  // What version 0.1 left when it was killed.
  for (const char* name : {"train.bin", "val.bin", "meta.json"}) {
    remove_tree(folder / fmt::format("{}.tmp", name));
  }
}

}  // namespace

fs::path find_data_file(const fs::path& folder, const char* name) {
  fs::path staged = folder / kComplete / name;
  std::error_code ignored;
  return fs::exists(staged, ignored) ? staged : folder / name;
}

std::array<DataFileState, kDataFiles.size()> data_file_states(
    const fs::path& folder) {
  std::array<DataFileState, kDataFiles.size()> states{};
  for (std::size_t i = 0; i < states.size(); ++i) {
    struct stat status {};
    const fs::path staged = folder / kComplete / kDataFiles[i];
    const bool complete = ::stat(staged.c_str(), &status) == 0;
    if (complete || ::stat((folder / kDataFiles[i]).c_str(), &status) == 0) {
      states[i] = {
          complete,
          status.st_ino,
          status.st_mtim.tv_sec * std::int64_t{1'000'000'000} +
              status.st_mtim.tv_nsec};
    }
  }
  return states;
}

StagedFolder::StagedFolder(const fs::path& folder, Kind kind)
    : folder_(folder), made_(folder) {
  try {
    lock();
    check_replaceable(folder_, kind);
    move_complete(folder_);
    remove_stale(folder_);
    base::make_directory(folder_ / kIncomplete);
  } catch (...) {
    made_.remove_empty();
    throw;
  }
}

StagedFolder::~StagedFolder() {
  std::error_code ignored;
  fs::remove_all(folder_ / kIncomplete, ignored);
  made_.remove_empty();
}

// Another process may remove the folder between the steps, as it failed.
void StagedFolder::lock() {
  constexpr int kAttempts = 100;
  for (int attempt = 1; !lock_ || !lock_->holds(); ++attempt) {
    lock_.reset();
    try {
      base::make_directory(folder_);
      lock_.emplace(folder_);
    } catch (const base::IoError&) {
      std::error_code ignored;
      if (attempt >= kAttempts || fs::exists(folder_, ignored)) {
        throw;
      }
    }
  }
}

fs::path StagedFolder::staged(const char* name) const {
  return folder_ / kIncomplete / name;
}

void StagedFolder::publish() {
  sync_folder(folder_ / kIncomplete);
  if (!lock_->holds()) {
    throw base::IoError(fmt::format(
        "'{}': was removed or replaced in the meantime", folder_.string()));
  }
  std::vector<fs::path> stale;  // of another tokenizer
  for (const std::string_view name : kDataFiles) {
    std::error_code ignored;
    if (name.starts_with("tokenizer.") &&
        !fs::exists(folder_ / kIncomplete / name, ignored)) {
      stale.push_back(folder_ / name);
    }
  }
  move(folder_ / kIncomplete, folder_ / kComplete);
  sync_folder(folder_);
  move_complete(folder_);
  for (const fs::path& path : stale) {
    remove_tree(path);
  }
}

void publish(
    StagedFolder& folder,
    const Metadata& metadata,
    const std::optional<TokenizerFile>& tokenizer) {
  if (tokenizer) {
    base::write_file_atomically(
        folder.staged(metadata.tokenizer.file.c_str()), tokenizer->bytes());
  }
  base::write_file_atomically(
      folder.staged("meta.json"),
      base::dump_json(base::to_json(metadata), 2) + "\n");
  folder.publish();
}

}  // namespace einforge::data
