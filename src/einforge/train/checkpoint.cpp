#include "einforge/train/checkpoint.h"

#include <fcntl.h>
#include <fmt/ranges.h>
#include <torch/types.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <utility>

#include "einforge/base/error.h"
#include "einforge/base/hash.h"
#include "einforge/train/upgrade.h"

namespace einforge::train {
namespace {

namespace fs = std::filesystem;

constexpr const char* kFormat = "einforge-checkpoint";
constexpr const char* kModelFile = "model.safetensors";
constexpr const char* kOptimizerFile = "optimizer.safetensors";
constexpr const char* kStateFile = "state.json";
constexpr std::string_view kPrefix = "step_";

// A checkpoint that was ours and is no longer whole, as opposed to one that is
// somebody else's.
class Damaged : public base::InvalidInput {
 public:
  using base::InvalidInput::InvalidInput;
};

const std::pair<torch::ScalarType, const char*> kDtypes[] = {
    {torch::kFloat32, "F32"},
    {torch::kFloat64, "F64"},
    {torch::kBFloat16, "BF16"},
    {torch::kFloat16, "F16"},
    {torch::kInt64, "I64"},
    {torch::kUInt8, "U8"}};

std::string dtype_name(torch::ScalarType dtype) {
  for (const auto& [candidate, name] : kDtypes) {
    if (candidate == dtype) {
      return name;
    }
  }
  TORCH_CHECK(false, "[checkpoint] dtype ", dtype, " has no file format");
}

torch::ScalarType dtype_of(const std::string& name) {
  for (const auto& [dtype, candidate] : kDtypes) {
    if (candidate == name) {
      return dtype;
    }
  }
  throw base::InvalidInput("safetensors: unsupported dtype '" + name + "'");
}

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

// Writes the tensors, in the row-major order of their indices; returns the
// hash of the file.
std::string save_tensors(const fs::path& path, const NamedTensors& tensors) {
  const torch::NoGradGuard no_grad;
  base::Safetensors content;
  content.metadata["format"] = "pt";
  std::vector<torch::Tensor> alive;
  for (const auto& [name, tensor] : tensors) {
    alive.push_back(tensor.detach().cpu().contiguous());
    content.tensors.push_back(
        {name,
         dtype_name(tensor.scalar_type()),
         tensor.sizes().vec(),
         {static_cast<const std::byte*>(alive.back().const_data_ptr()),
          alive.back().nbytes()}});
  }
  base::write_safetensors(path, content);
  return base::hash_hex(text(base::MappedFile(path).bytes()));
}

// state.json carries the hash of itself without that key.
std::string checksum(base::Json state) {
  state.erase("checksum");
  return base::hash_hex(state.dump());
}

base::Json read_state(const fs::path& path) {
  std::string bytes;
  try {
    bytes = base::read_file(path / kStateFile);
  } catch (const base::InvalidInput& error) {
    throw Damaged(error.what());
  }
  const std::string where = (path / kStateFile).string();
  base::Json state = base::Json::parse(bytes, nullptr, false);
  if (!state.is_object()) {
    throw Damaged(fmt::format("'{}': expected a JSON object", where));
  }
  const auto format = state.find("format");
  base::check(
      format != state.end() && *format == kFormat,
      "'{}': expected an einforge checkpoint; got something else",
      where);
  const auto version = state.find("version");
  base::check(
      version != state.end() && version->is_number_integer(),
      "'{}': expected a version; got none",
      where);
  base::check(
      *version >= kOldestVersion && *version <= kVersion,
      "'{}': expected version {} to {}; got {} (written by another einforge)",
      where,
      kOldestVersion,
      kVersion,
      version->dump());
  const auto own = state.find("checksum");
  if (own == state.end() || *own != checksum(state)) {
    throw Damaged(fmt::format("'{}': its checksum is wrong", where));
  }
  return state;
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
    throw Damaged(fmt::format(
        "'{}': its bytes are not those written", (path / name).string()));
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
    // from_blob wants a mutable pointer; the copy only reads it.
    const torch::Tensor source = torch::from_blob(
        const_cast<std::byte*>(view.data.data()),
        view.shape,
        dtype_of(view.dtype));
    torch::Tensor(target).copy_(source);
  }
  base::check(
      views.size() == targets.size(),
      "'{}': expected {} tensors; got {}",
      path.string(),
      targets.size(),
      views.size());
}

CheckpointFolder::CheckpointFolder(fs::path directory)
    : directory_(std::move(directory)) {}

fs::path CheckpointFolder::path_of(std::int64_t step) const {
  return directory_ / fmt::format("{}{:08}", kPrefix, step);
}

std::vector<std::int64_t> CheckpointFolder::steps() const {
  std::vector<std::int64_t> steps;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory_, error)) {
    const std::string name = entry.path().filename();
    const bool ours =
        name.starts_with(kPrefix) && name.size() <= 24 &&
        std::all_of(name.begin() + kPrefix.size(), name.end(), [](char c) {
          return c >= '0' && c <= '9';
        });
    if (ours && name.size() > kPrefix.size()) {
      steps.push_back(std::stoll(name.substr(kPrefix.size())));
    }
  }
  std::sort(steps.rbegin(), steps.rend());
  return steps;
}

void CheckpointFolder::remove(std::int64_t step) const {
  // Renamed first: a folder half removed must not pass for a checkpoint.
  const fs::path trash = directory_ / fmt::format(".old_{}", step);
  std::error_code error;
  fs::rename(path_of(step), trash, error);
  fs::remove_all(trash, error);
}

void CheckpointFolder::write(
    std::int64_t step,
    const NamedTensors& model,
    const NamedTensors& optimizer,
    base::Json state,
    std::int64_t keep) {
  base::make_directory(directory_);
  const fs::path temporary = directory_ / fmt::format(".new_{}", step);
  std::error_code error;
  fs::remove_all(temporary, error);
  base::make_directory(temporary);
  try {
    base::Json complete = {
        {"format", kFormat}, {"version", kVersion}, {"step", step}};
    complete.update(state);
    complete["files"] = {
        {kModelFile, save_tensors(temporary / kModelFile, model)},
        {kOptimizerFile, save_tensors(temporary / kOptimizerFile, optimizer)}};
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
  const std::vector<std::int64_t> all = steps();
  for (std::size_t i = static_cast<std::size_t>(keep); i < all.size(); ++i) {
    remove(all[i]);
  }
}

std::optional<Checkpoint> CheckpointFolder::newest(
    const std::function<void(const std::string&)>& warn) const {
  const std::vector<std::int64_t> all = steps();
  std::vector<std::string> skipped;
  for (const std::int64_t step : all) {
    try {
      Checkpoint checkpoint = open_checkpoint(path_of(step));
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
