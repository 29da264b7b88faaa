#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>

#include "einforge/base/files.h"
#include "einforge/base/json.h"
#include "einforge/base/safetensors.h"
#include "einforge/train/adamw.h"

namespace einforge::train {

// A checkpoint is a folder that appears by one rename:
//
//   checkpoints/step_00000500/model.safetensors
//                             optimizer.safetensors
//                             state.json
//
// and, of a model of a tokenizer's tokens, with a copy of its file.
// state.json holds everything that is no tensor, the hash of each tensor file
// and its own. Nothing is pickled; nothing in it is ever executed.

// An opened checkpoint whose hashes are right. The tensors are mapped.
struct Checkpoint {
  std::filesystem::path path;
  std::int64_t step = 0;
  base::Json state;
  base::MappedFile model_file;
  base::MappedFile optimizer_file;
  base::Safetensors model;
  base::Safetensors optimizer;
};

// Opens one checkpoint folder.
// Throws base::InvalidInput when a file is missing or damaged, when the folder
// is no einforge checkpoint or one of a newer version.
Checkpoint open_checkpoint(const std::filesystem::path& path);

// Copies tensors of a file into `targets`, whatever their strides and device.
// Throws base::InvalidInput unless names, shapes and dtypes are the same.
void load_tensors(
    const base::Safetensors& file,
    const std::filesystem::path& path,
    const NamedTensors& targets);

// The name of the first tensor with a value that is not finite; empty if there
// is none.
std::string not_finite(const NamedTensors& tensors);

// Throws base::InvalidInput that names the file and the tensor if there is one.
void check_finite(
    const std::filesystem::path& path, const NamedTensors& tensors);

// The checkpoints of one run.
class CheckpointFolder {
 public:
  using IsOurs = std::function<bool(const Checkpoint&)>;

  // `directory` holds the step_* folders; it need not exist. `is_ours`
  // distinguishes checkpoints of this run from those of another.
  explicit CheckpointFolder(
      std::filesystem::path directory, IsOurs is_ours = {});

  // Steps that have a folder, newest first; it may be damaged.
  std::vector<std::int64_t> steps() const;

  // Removes what killed writes have left; for the process that writes here.
  void sweep() const;

  // Writes the checkpoint of `step` and then deletes older ones: of those that
  // are whole and ours, what was just written and the newest others stay,
  // `keep` in all. Damaged and foreign ones do not count and stay where they
  // are. `state` is completed with format, version, step and hashes; `others`
  // are files of that name and content. Throws base::IoError and leaves earlier
  // checkpoints as they were.
  void write(
      std::int64_t step,
      const NamedTensors& model,
      const NamedTensors& optimizer,
      base::Json state,
      std::int64_t keep,
      const std::map<std::string, std::string>& others = {});

  // The newest checkpoint that is whole; damaged ones are named to `warn` and
  // left where they are. Throws base::InvalidInput when there are checkpoints
  // but none is whole, or when the newest whole one is foreign.
  std::optional<Checkpoint> newest(
      const std::function<void(const std::string&)>& warn) const;

 private:
  std::filesystem::path path_of(std::int64_t step) const;
  void remove(std::int64_t step) const;
  // The checkpoint of `step`, whole. Throws as open_checkpoint() does.
  Checkpoint open(std::int64_t step) const;
  // Opens one that this process has neither written nor opened yet.
  bool is_whole_and_ours(std::int64_t step);

  std::filesystem::path directory_;
  IsOurs is_ours_;
  std::map<std::int64_t, bool> known_;  // what is_whole_and_ours() found
};

}  // namespace einforge::train
