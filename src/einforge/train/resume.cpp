#include "einforge/train/resume.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>

namespace einforge::train {
namespace {

base::Json essentials(const base::Json& own, const base::Json& identity) {
  // A setting that its einforge did not know yet has the value it has by now.
  base::Json config = base::to_json(TrainConfig{});
  config.update(own, /*merge_objects=*/true);
  base::Json json = {
      {"model", config.value("model", base::Json())},
      {"optimizer", config.value("optimizer", base::Json())},
      {"flops", config.value("flops", base::Json())},
      {"seed", config.value("seed", base::Json())},
      {"data", identity}};
  json["data"]["batch_size"] =
      config.value("/data/batch_size"_json_pointer, base::Json());
  return json.flatten();
}

}  // namespace

std::string difference(
    const TrainConfig& config,
    const base::Json& task_identity,
    const Checkpoint& checkpoint) {
  const base::Json here = essentials(base::to_json(config), task_identity);
  const base::Json there = essentials(
      checkpoint.state.value("config", base::Json::object()),
      checkpoint.state.value("task", base::Json::object()));
  for (const auto& item : here.items()) {
    const base::Json other = there.value(item.key(), base::Json());
    if (other == item.value()) {
      continue;
    }
    std::string key = item.key().substr(1);
    std::ranges::replace(key, '/', '.');
    return fmt::format(
        "'{}' is of another run: expected {} {}; got {}",
        checkpoint.path.string(),
        key,
        item.value().dump(),
        other.dump());
  }
  return "";
}

}  // namespace einforge::train
