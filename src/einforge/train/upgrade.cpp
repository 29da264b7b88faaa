#include "einforge/train/upgrade.h"

#include <string>

#include "einforge/base/error.h"
#include "einforge/structure/structure.h"

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

// A structure's text as version 2 writes it.
std::string upgrade_structure(const std::string& text, bool softmax_first) {
  const structure::Spec spec = structure::parse(text);
  base::check(
      softmax_first || !spec.mixture || spec.mixture->active > 1 ||
          spec.mixture->experts == 1,
      "{} of a checkpoint of version 1, which gave one expert per token the "
      "gate 1; this version multiplies by the router's probability",
      text);
  if (!spec.shared_rank) {
    return text;
  }
  return fmt::format(
      "{}:0.5,{}", spec.family, spec.text.substr(spec.family.size() + 1));
}

void upgrade_config(Json& config) {
  Json& model = config["model"];
  Json& router = model["moe"]["router"];
  const bool softmax_first = router.value("softmax_first", false);
  router.erase("softmax_first");
  router["gates"] = softmax_first ? "all" : "auto";
  router["reduce"] = "sum";
  router["init_std"] = 0;
  for (auto& structure : model["structure"].items()) {
    if (const auto text = structure.value().get<std::string>(); !text.empty()) {
      structure.value() = upgrade_structure(text, softmax_first);
    }
  }
  config["optimizer"]["base_ffn_multiple"] = model.value("ffn_multiple", 4);
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
