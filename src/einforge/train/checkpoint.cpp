#include "einforge/train/checkpoint.h"

#include <fcntl.h>
#include <fmt/ranges.h>
#include <torch/types.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <map>
#include <utility>

#include "einforge/base/error.h"
#include "einforge/base/hash.h"
#include "einforge/train/tensor_file.h"
#include "einforge/train/upgrade.h"

namespace einforge::train {
namespace {

namespace fs = std::filesystem;

constexpr const char* kFormat = "einforge-checkpoint";
constexpr const char* kModelFile = "model.safetensors";
constexpr const char* kOptimizerFile = "optimizer.safetensors";
constexpr const char* kStateFile = "state.json";
constexpr std::string_view kPrefix = "step_";
// Of folders that are being written or removed.
constexpr std::string_view kNewPrefix = ".new_";
constexpr std::string_view kOldPrefix = ".old_";

// A checkpoint that was ours and is no longer whole, as opposed to one that is
// somebody else's.
class Damaged : public base::InvalidInput {
 public:
  using base::InvalidInput::InvalidInput;
};

std::string_view text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

void sync_directory(const fs::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd >= 0) {
    ::fsync(fd);
    ::close(fd);
  }
}

// The hash of the file that it writes.
std::string write_tensors(const fs::path& path, const NamedTensors& tensors) {
  save_tensors(path, tensors);
  return base::hash_hex(text(base::MappedFile(path).bytes()));
}

// state.json carries the hash of itself without that key.
std::string checksum(base::Json state) {
  state.erase("checksum");
  return base::hash_hex(state.dump());
}

// What was damaged may say anything, so the checksum comes first: only of what
// is as it was written can the rest be taken at its word.
base::Json read_state(const fs::path& path) {
  std::string bytes;
  try {
    bytes = base::read_file(path / kStateFile);
  } catch (const base::InvalidInput& error) {
    throw Damaged(error.what());
  }
  const std::string where = (path / kStateFile).string();
  std::optional<base::Json> parsed = base::try_parse_json(bytes);
  if (!parsed || !parsed->is_object()) {
    throw Damaged(fmt::format("'{}': expected a JSON object", where));
  }
  base::Json& state = *parsed;
  const auto own = state.find("checksum");
  if (own == state.end() || *own != checksum(state)) {
    throw Damaged(fmt::format("'{}': checksum mismatch", where));
  }
  base::check(
      state.value("format", base::Json()) == kFormat,
      "'{}': expected an einforge checkpoint; got something else",
      where);
  const base::Json version = state.value("version", base::Json());
  base::check(
      version.is_number_integer() && version >= kOldestVersion &&
          version <= kVersion,
      "'{}': expected version {} to {}; got {} (written by another einforge)",
      where,
      kOldestVersion,
      kVersion,
      version.dump());
  return std::move(state);
}

base::MappedFile open_tensors(
    const base::Json& state, const fs::path& path, const char* name) {
  base::MappedFile file;
  try {
    file = base::MappedFile(path / name);
  } catch (const base::InvalidInput& error) {
    throw Damaged(error.what());
  }
  const std::string expected =
      state.value("/files"_json_pointer / name, std::string());
  if (base::hash_hex(text(file.bytes())) != expected) {
    throw Damaged(
        fmt::format("'{}': checksum mismatch", (path / name).string()));
  }
  return file;
}

base::Safetensors parse_tensors(
    const base::MappedFile& file, const fs::path& path) {
  try {
    return base::parse_safetensors(file.bytes());
  } catch (const base::InvalidInput& error) {
    throw Damaged(fmt::format("'{}': {}", path.string(), error.what()));
  }
}

}  // namespace

Checkpoint open_checkpoint(const fs::path& path) {
  base::check(
      fs::is_directory(path),
      "'{}': expected the folder of a checkpoint (.../checkpoints/step_N)",
      path.string());
  Checkpoint checkpoint;
  checkpoint.path = path;
  checkpoint.state = read_state(path);
  const auto step = checkpoint.state.find("step");
  base::check(
      step != checkpoint.state.end() && step->is_number_unsigned(),
      "'{}': expected a step number in state.json",
      path.string());
  checkpoint.step = step->get<std::int64_t>();
  checkpoint.model_file = open_tensors(checkpoint.state, path, kModelFile);
  checkpoint.optimizer_file =
      open_tensors(checkpoint.state, path, kOptimizerFile);
  checkpoint.model = parse_tensors(checkpoint.model_file, path / kModelFile);
  checkpoint.optimizer =
      parse_tensors(checkpoint.optimizer_file, path / kOptimizerFile);
  upgrade(checkpoint.state.at("version").get<std::int64_t>(), checkpoint);
  return checkpoint;
}

void load_tensors(
    const base::Safetensors& file,
    const fs::path& path,
    const NamedTensors& targets) {
  const torch::NoGradGuard no_grad;
  std::map<std::string, const base::TensorView*> views;
  for (const base::TensorView& view : file.tensors) {
    views[view.name] = &view;
  }
  for (const auto& [name, target] : targets) {
    const auto found = views.find(name);
    base::check(
        found != views.end(),
        "'{}': expected a tensor '{}'; got none",
        path.string(),
        name);
    const base::TensorView& view = *found->second;
    base::check(
        view.shape == target.sizes().vec() &&
            view.dtype == dtype_name(target.scalar_type()),
        "'{}': tensor '{}': expected {} of ({}); got {} of ({})",
        path.string(),
        name,
        dtype_name(target.scalar_type()),
        fmt::join(target.sizes(), ", "),
        view.dtype,
        fmt::join(view.shape, ", "));
    torch::Tensor(target).copy_(tensor_of(view));
  }
  base::check(
      views.size() == targets.size(),
      "'{}': expected {} tensors; got {}",
      path.string(),
      targets.size(),
      views.size());
}

std::string not_finite(const NamedTensors& tensors) {
  const torch::NoGradGuard no_grad;
  std::vector<torch::Tensor> finite;
  for (const auto& [name, tensor] : tensors) {
    finite.push_back(tensor.isfinite().all());
  }
  if (finite.empty()) {
    return "";
  }
  const torch::Tensor all = at::stack(finite).cpu();
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (!all.const_data_ptr<bool>()[i]) {
      return tensors[i].first;
    }
  }
  return "";
}

void check_finite(const fs::path& path, const NamedTensors& tensors) {
  const std::string name = not_finite(tensors);
  base::check(
      name.empty(),
      "'{}': expected finite weights; tensor '{}' has some that are not (the "
      "run diverged)",
      path.string(),
      name);
}

CheckpointFolder::CheckpointFolder(fs::path directory, IsOurs is_ours)
    : directory_(std::move(directory)), is_ours_(std::move(is_ours)) {}

fs::path CheckpointFolder::path_of(std::int64_t step) const {
  return directory_ / fmt::format("{}{:08}", kPrefix, step);
}

std::vector<std::int64_t> CheckpointFolder::steps() const {
  std::vector<std::int64_t> steps;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory_, error)) {
    const std::string name = entry.path().filename();
    std::int64_t step = -1;
    if (name.starts_with(kPrefix)) {
      std::from_chars(
          name.data() + kPrefix.size(), name.data() + name.size(), step);
    }
    // Nothing but the name that path_of() gives back.
    if (step >= 0 && path_of(step).filename() == name &&
        entry.is_directory(error)) {
      steps.push_back(step);
    }
  }
  std::sort(steps.rbegin(), steps.rend());
  return steps;
}

void CheckpointFolder::sweep() const {
  std::error_code error;
  std::vector<fs::path> leftovers;
  for (const auto& entry : fs::directory_iterator(directory_, error)) {
    const std::string name = entry.path().filename();
    if (name.starts_with(kNewPrefix) || name.starts_with(kOldPrefix)) {
      leftovers.push_back(entry.path());
    }
  }
  for (const fs::path& path : leftovers) {
    fs::remove_all(path, error);
  }
}

void CheckpointFolder::remove(std::int64_t step) const {
  // Renamed first: a folder half removed must not pass for a checkpoint.
  const fs::path trash = directory_ / fmt::format("{}{}", kOldPrefix, step);
  std::error_code error;
  fs::remove_all(trash, error);
  fs::rename(path_of(step), trash, error);
  fs::remove_all(trash, error);
}

Checkpoint CheckpointFolder::open(std::int64_t step) const {
  Checkpoint checkpoint = open_checkpoint(path_of(step));
  if (checkpoint.step != step) {
    throw Damaged(fmt::format(
        "'{}': its state is of step {}",
        path_of(step).string(),
        checkpoint.step));
  }
  return checkpoint;
}

bool CheckpointFolder::is_whole_and_ours(std::int64_t step) {
  const auto found = known_.find(step);
  if (found != known_.end()) {
    return found->second;
  }
  bool whole = false;
  try {
    const Checkpoint checkpoint = open(step);
    whole = !is_ours_ || is_ours_(checkpoint);
  } catch (const base::InvalidInput&) {
    // Damaged or of another version; not for us to delete.
  }
  known_[step] = whole;
  return whole;
}

void CheckpointFolder::write(
    std::int64_t step,
    const NamedTensors& model,
    const NamedTensors& optimizer,
    base::Json state,
    std::int64_t keep,
    const std::map<std::string, std::string>& others) {
  base::make_directory(directory_);
  const fs::path temporary = directory_ / fmt::format("{}{}", kNewPrefix, step);
  std::error_code error;
  fs::remove_all(temporary, error);
  base::make_directory(temporary);
  try {
    base::Json complete = {
        {"format", kFormat}, {"version", kVersion}, {"step", step}};
    complete.update(state);
    complete["files"] = {
        {kModelFile, write_tensors(temporary / kModelFile, model)},
        {kOptimizerFile, write_tensors(temporary / kOptimizerFile, optimizer)}};
    for (const auto& [name, bytes] : others) {
      base::write_file_atomically(temporary / name, bytes);
      complete["files"][name] = base::hash_hex(bytes);
    }
    complete["checksum"] = checksum(complete);
    base::write_file_atomically(
        temporary / kStateFile, complete.dump(2) + "\n");
    sync_directory(temporary);
    // A damaged checkpoint of this step may be in the way.
    if (fs::exists(path_of(step))) {
      remove(step);
    }
    fs::rename(temporary, path_of(step), error);
    if (error) {
      base::throw_io_error(
          fmt::format("cannot write '{}'", path_of(step).string()),
          error.value());
    }
    sync_directory(directory_);
  } catch (...) {
    fs::remove_all(temporary, error);
    throw;
  }
  known_[step] = true;
  std::int64_t left = keep - 1;
  for (const std::int64_t other : steps()) {
    if (other != step && is_whole_and_ours(other) && left-- <= 0) {
      remove(other);
      known_.erase(other);
    }
  }
}

std::optional<Checkpoint> CheckpointFolder::newest(
    const std::function<void(const std::string&)>& warn) const {
  const std::vector<std::int64_t> all = steps();
  std::vector<std::string> skipped;
  for (const std::int64_t step : all) {
    try {
      Checkpoint checkpoint = open(step);
      for (const std::string& message : skipped) {
        warn(message);
      }
      return checkpoint;
    } catch (const Damaged& error) {
      skipped.push_back(fmt::format(
          "skipped a damaged checkpoint of step {}: {}", step, error.what()));
    }
  }
  base::check(
      all.empty(),
      "'{}': expected a whole checkpoint; all {} are damaged (delete the "
      "folder to start afresh)",
      directory_.string(),
      all.size());
  return std::nullopt;
}

}  // namespace einforge::train
