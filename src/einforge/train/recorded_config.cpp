#include "einforge/train/recorded_config.h"

#include <string>

#include "einforge/base/error.h"
#include "einforge/structure/structure.h"

namespace einforge::train {
namespace {

using base::Json;

// Keys that came later with another default than what einforge did before they
// existed, and values that were the default once: add a line with such a
// change. What is in here stays, since records of that time do.
const Json& values_before() {
  static const Json json = base::parse_json(R"({})", "values before");
  return json;
}

// A structure's text as version 2 writes it.
std::string upgrade_structure(const std::string& text, bool softmax_first) {
  const structure::Spec spec = structure::parse(text);
  base::check(
      softmax_first || !spec.mixture || spec.mixture->active > 1 ||
          spec.mixture->experts == 1,
      "{} of an earlier version, which gave one expert per token the "
      "gate 1; this version multiplies by the router's probability",
      text);
  if (!spec.shared_rank) {
    return text;
  }
  return fmt::format(
      "{}:0.5,{}", spec.family, spec.text.substr(spec.family.size() + 1));
}

}  // namespace

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

TrainConfig recorded_config(const Json& json) {
  Json recorded = json;
  // Whoever wrote a router without gates wrote all keys of that time.
  const auto router =
      recorded.is_object()
          ? recorded.value("/model/moe/router"_json_pointer, Json())
          : Json();
  if (router.is_object() && !router.contains("gates")) {
    try {
      upgrade_config(recorded);
    } catch (const Json::exception&) {
      throw base::InvalidInput("expected a recorded configuration");
    }
  }
  TrainConfig config;
  base::update_from_json(config, values_before());
  base::update_from_json(config, recorded);
  return config;
}

}  // namespace einforge::train
