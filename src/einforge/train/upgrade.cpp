#include "einforge/train/upgrade.h"

#include <string>

namespace einforge::train {
namespace {

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
  if (version < 2) {
    rename_gains(checkpoint.model);
    rename_gains(checkpoint.optimizer);
  }
}

}  // namespace einforge::train
