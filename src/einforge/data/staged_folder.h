#pragma once

#include <sys/stat.h>

#include <array>
#include <chrono>
#include <compare>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <thread>

#include "einforge/base/files.h"
#include "einforge/base/folders.h"

namespace einforge::data {

struct Metadata;
class TokenizerFile;

// The files of a data folder, in the order in which they are put in place.
inline constexpr std::array<const char*, 6> kDataFiles = {
    "train.bin",
    "val.bin",
    "tokenizer.json",
    "tokenizer.tiktoken",
    "tokenizer.model",
    "meta.json"};

// Where the folder's current file of that name is. That is the folder itself,
// but for one whose publication was interrupted.
std::filesystem::path find_data_file(
    const std::filesystem::path& folder, const char* name);

// Where each of the folder's files is, and which file that is.
struct DataFileState {
  bool complete = false;      // found where it counts before it is moved
  ino_t number = 0;           // 0: there is none
  std::int64_t modified = 0;  // ns; a number may come again, at another time

  auto operator<=>(const DataFileState&) const = default;
};
std::array<DataFileState, kDataFiles.size()> data_file_states(
    const std::filesystem::path& folder);

// What `read` returns of a folder whose files another process may replace:
// called again when they were meanwhile, whether it returned or threw.
template <typename Read>
auto read_unreplaced(const std::filesystem::path& folder, const Read& read) {
  constexpr int kAttempts = 100;  // one that never rests is not waited for
  for (int attempt = 1;; ++attempt) {
    const auto before = data_file_states(folder);
    const auto is_last = [&] {
      return attempt == kAttempts || data_file_states(folder) == before;
    };
    try {
      auto result = read();
      if (is_last()) {
        return result;
      }
    } catch (...) {
      if (is_last()) {
        throw;
      }
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

// Replaces the files of a data folder all at once, whatever happens.
//
// They are written into FOLDER/.incomplete. Renaming that to FOLDER/.complete
// is the moment from which they count: readers look there first. Then each is
// moved to its place. A process that is killed before that moment leaves the
// old files, later the new ones; the next one that writes the folder clears
// what is left or ends the moving.
//
// All throw base::IoError when the disk refuses.
class StagedFolder {
 public:
  // What makes the folder: `data prepare`, with files of tokens of its own, or
  // `data import`, which may make it where the tokens of others lie.
  enum class Kind { kPrepared, kImported };

  // Makes the folder unless it is there and locks it. Throws
  // base::InvalidInput when another process writes it, and when what it holds
  // is not a data folder's to replace.
  explicit StagedFolder(
      const std::filesystem::path& folder, Kind kind = Kind::kPrepared);
  StagedFolder(const StagedFolder&) = delete;
  StagedFolder& operator=(const StagedFolder&) = delete;
  // Without publish() leaves the folder as it was found: folders that were
  // made and are still empty go.
  ~StagedFolder();

  // Where a new file is to be written.
  std::filesystem::path staged(const char* name) const;
  // All files are written and synced: puts them in place.
  void publish();

 private:
  void lock();

  std::filesystem::path folder_;
  base::NewFolders made_;
  std::optional<base::FolderLock> lock_;
};

// Adds what belongs beside the tokens, which are written and synced, and puts
// all in place.
void publish(
    StagedFolder& folder,
    const Metadata& metadata,
    const std::optional<TokenizerFile>& tokenizer);

}  // namespace einforge::data
