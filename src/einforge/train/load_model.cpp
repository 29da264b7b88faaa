#include "einforge/train/load_model.h"

#include <fmt/format.h>

#include <optional>
#include <utility>

#include "einforge/base/console.h"
#include "einforge/base/error.h"
#include "einforge/train/checkpoint.h"
#include "einforge/train/device.h"
#include "einforge/train/summary.h"

namespace einforge::train {
namespace {

Checkpoint open(const std::filesystem::path& path) {
  namespace fs = std::filesystem;
  // Of a run, or its checkpoints.
  fs::path folder = path / "checkpoints";
  if (!fs::is_directory(folder)) {
    folder = path;
    if (CheckpointFolder(path).steps().empty()) {
      base::check(
          !fs::is_directory(path) || fs::exists(path / "state.json"),
          "'{}': expected the folder of a training run or of a checkpoint, "
          "which holds state.json; got {}",
          path.string(),
          fs::exists(path / "meta.json")   ? "a data folder"
          : fs::exists(path / "trials.db") ? "that of a search, which has its "
                                             "runs in trials"
                                           : "another folder");
      return open_checkpoint(path);
    }
  }
  std::optional<Checkpoint> checkpoint = CheckpointFolder(folder).newest(
      [](const std::string& message) { base::warn(message); });
  base::check(
      checkpoint.has_value(),
      "'{}': expected a checkpoint; got none",
      folder.string());
  return std::move(*checkpoint);
}

}  // namespace

NamedTensors state_tensors(const models::Model& model) {
  NamedTensors tensors;
  for (const nn::Parameter& parameter : model.trainable()) {
    tensors.emplace_back(parameter.name, parameter.tensor);
  }
  for (const auto& buffer : model.named_buffers()) {
    tensors.emplace_back(buffer.key(), buffer.value());
  }
  return tensors;
}

LoadedModel load_model(
    const std::filesystem::path& path, const std::string& device) {
  const Checkpoint checkpoint = open(path);
  LoadedModel loaded;
  try {
    const base::Json& state = checkpoint.state;
    base::update_from_json(loaded.config, state.at("config"));
    loaded.model = models::make_model(
        loaded.config.model,
        state.at("inputs").get<std::int64_t>(),
        state.at("outputs").get<std::int64_t>(),
        base_model(loaded.config),
        loaded.config.seed);
    const base::Json& task = state.at("task");
    loaded.tokens = task.value("tokens", "");
    loaded.vocab_size = state.at("outputs").get<std::int64_t>();
    loaded.end_of_text = task.value("end_of_text", std::int64_t{-1});
    if (const auto found = task.find("tokenizer"); found != task.end()) {
      base::update_from_json(loaded.tokenizer, *found);
    }
  } catch (const base::Json::exception&) {
    throw base::InvalidInput(fmt::format(
        "'{}': expected config, inputs, outputs and task in state.json; "
        "something is missing",
        checkpoint.path.string()));
  }
  loaded.step = checkpoint.step;
  loaded.checkpoint = checkpoint.path;
  const std::filesystem::path file = checkpoint.path / "model.safetensors";
  const NamedTensors weights = state_tensors(*loaded.model);
  load_tensors(checkpoint.model, file, weights);
  check_finite(file, weights);
  loaded.model->to(resolve_device(device));
  loaded.model->eval();
  return loaded;
}

}  // namespace einforge::train
