#include "einforge/train/upgrade.h"

#include <string>

#include "einforge/base/error.h"
#include "einforge/train/recorded_config.h"

namespace einforge::train {
namespace {

using base::Json;

void rename_gains(base::Safetensors& file) {
  for (base::TensorView& tensor : file.tensors) {
    for (const std::string core : {"_a", "_b"}) {
      const std::string old = "gamma" + core;
      if (tensor.name.ends_with(old)) {
        tensor.name.replace(
            tensor.name.size() - old.size(), old.size(), "gain" + core);
      }
    }
  }
}

}  // namespace

void upgrade(std::int64_t version, Checkpoint& checkpoint) {
  if (version >= 2) {
    return;
  }
  rename_gains(checkpoint.model);
  rename_gains(checkpoint.optimizer);
  const auto config = checkpoint.state.find("config");
  if (config == checkpoint.state.end()) {
    return;
  }
  try {
    upgrade_config(*config);
  } catch (const Json::exception&) {
    throw base::InvalidInput(fmt::format(
        "'{}': expected a configuration in state.json; got something else",
        checkpoint.path.string()));
  } catch (const base::InvalidInput& error) {
    throw base::InvalidInput(
        fmt::format("'{}': {}", checkpoint.path.string(), error.what()));
  }
}

}  // namespace einforge::train
