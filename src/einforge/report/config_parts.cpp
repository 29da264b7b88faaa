#include "einforge/report/config_parts.h"

#include <utility>

namespace einforge::report {

using base::Json;

Json common_part(const Json& a, const Json& b) {
  Json common = Json::object();
  for (const auto& [key, value] : a.items()) {
    const auto other = b.find(key);
    if (other == b.end()) {
      continue;
    }
    if (value == *other) {
      common[key] = value;
    } else if (value.is_object() && other->is_object()) {
      if (Json part = common_part(value, *other); !part.empty()) {
        common[key] = std::move(part);
      }
    }
  }
  return common;
}

Json own_part(const Json& config, const Json& common) {
  Json own = Json::object();
  for (const auto& [key, value] : config.items()) {
    const auto shared = common.find(key);
    if (shared == common.end()) {
      own[key] = value;
    } else if (value != *shared) {
      own[key] = own_part(value, *shared);
    }
  }
  return own;
}

}  // namespace einforge::report
