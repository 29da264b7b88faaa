#include "einforge/search/identity.h"

#include <map>

#include "einforge/base/error.h"
#include "einforge/base/hash.h"
#include "einforge/structure/structure.h"
#include "einforge/train/recorded_config.h"

namespace einforge::search {
namespace {

bool has_mixture(const models::StructureConfig& config) {
  bool found = false;
  models::StructureConfig::fields(
      config, [&](const char*, const std::string& text, const char*) {
        try {
          found |= !text.empty() && structure::parse(text).mixture;
        } catch (const base::InvalidInput&) {
          // The trial fails and says why.
        }
      });
  return found;
}

}  // namespace

std::string trial_id(const train::TrainConfig& config) {
  base::Json json = base::to_json(config);
  json["data"].erase("path");
  if (!has_mixture(config.model.structure)) {
    json["model"].erase("moe");
  }
  if (config.model.kind == "mlp") {
    json["optimizer"].erase("base_ffn_multiple");
  }
  json.erase("preset");  // all that it says is in the other keys
  json.erase("device");
  json.erase("log_every");
  json.erase("checkpoint_every");
  json.erase("keep_checkpoints");
  json.erase("cuda_graph");
  static const base::Json kAbsent =
      base::to_json(train::recorded_config(base::Json::object())).flatten();
  // Sorted: the order of the fields is no part of the trial.
  std::map<std::string, std::string> different;
  const base::Json flat = json.flatten();
  for (const auto& item : flat.items()) {
    const auto absent = kAbsent.find(item.key());
    if (absent == kAbsent.end() || *absent != item.value()) {
      different[item.key()] = item.value().dump();
    }
  }
  std::string text;
  for (const auto& [key, value] : different) {
    text += key + "=" + value + "\n";
  }
  return base::hash_hex(text).substr(0, 16);
}

std::string trial_id(const store::Trial& trial) {
  try {
    return trial_id(train::recorded_config(trial.config));
  } catch (const base::InvalidInput&) {
    return trial.id;
  }
}

}  // namespace einforge::search
