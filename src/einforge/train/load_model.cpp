#include "einforge/train/load_model.h"

#include <fmt/format.h>

#include <cstdio>
#include <optional>
#include <utility>

#include "einforge/base/error.h"
#include "einforge/train/checkpoint.h"
#include "einforge/train/device.h"

namespace einforge::train {
namespace {

Checkpoint open(const std::filesystem::path& path) {
  const std::filesystem::path folder = path / "checkpoints";
  if (!std::filesystem::is_directory(folder)) {
    return open_checkpoint(path);
  }
  std::optional<Checkpoint> checkpoint =
      CheckpointFolder(folder).newest([](const std::string& message) {
        fmt::print(stderr, "einforge: warning: {}\n", message);
      });
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
        loaded.config.optimizer.base_width,
        loaded.config.seed);
    loaded.tokens = state.at("task").value("tokens", "");
  } catch (const base::Json::exception& error) {
    throw base::InvalidInput(fmt::format(
        "'{}': its state.json lacks something: {}",
        checkpoint.path.string(),
        error.what()));
  }
  loaded.step = checkpoint.step;
  load_tensors(
      checkpoint.model,
      checkpoint.path / "model.safetensors",
      state_tensors(*loaded.model));
  loaded.model->to(resolve_device(device));
  loaded.model->eval();
  return loaded;
}

}  // namespace einforge::train
