#include "einforge/train/recorded_config.h"

namespace einforge::train {
namespace {

// Keys whose default is not what einforge did before they existed, and values
// that were the default once: add a line with such a change. What is in here
// stays, since records of that time do.
const base::Json& values_before() {
  static const base::Json json = base::Json::parse(R"({})");
  return json;
}

}  // namespace

TrainConfig recorded_config(const base::Json& json) {
  TrainConfig config;
  base::update_from_json(config, values_before());
  base::update_from_json(config, json);
  return config;
}

}  // namespace einforge::train
