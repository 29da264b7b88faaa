#include "einforge/train/run_state.h"

#include <cmath>

namespace einforge::train {
namespace {

using base::Json;

// JSON has no NaN.
Json number_to_json(double value) {
  return std::isnan(value) ? Json() : Json(value);
}

double number_from_json(const Json& json) {
  return json.is_null() ? RunState::kUnknown : json.get<double>();
}

Json mean_to_json(const Mean& mean) {
  return {{"sum", mean.sum}, {"count", mean.count}};
}

Mean mean_from_json(const Json& json) {
  return {json.at("sum").get<double>(), json.at("count").get<std::int64_t>()};
}

Json rows_to_json(const std::vector<RouterRow>& rows) {
  Json list = Json::array();
  for (const RouterRow& row : rows) {
    list.push_back(to_json(row));
  }
  return list;
}

}  // namespace

double Mean::take() {
  const double mean =
      count > 0 ? sum / static_cast<double>(count) : RunState::kUnknown;
  *this = {};
  return mean;
}

Json RunState::to_json() const {
  return {
      {"seconds", seconds},
      {"val_loss", number_to_json(val_loss)},
      {"last_loss", number_to_json(last_loss)},
      {"since_log", mean_to_json(since_log)},
      {"since_point", mean_to_json(since_point)},
      {"routers",
       {{"step", router_step}, {"layers", rows_to_json(router_rows)}}},
      {"router_watch", warnings.state()}};
}

RunState RunState::from_json(std::int64_t step, const Json& json) {
  RunState state;
  state.step = step;
  state.seconds = json.at("seconds").get<double>();
  state.val_loss = number_from_json(json.at("val_loss"));
  state.last_loss = number_from_json(json.value("last_loss", Json()));
  state.since_log = mean_from_json(json.at("since_log"));
  state.since_point = mean_from_json(json.at("since_point"));
  if (const auto found = json.find("routers"); found != json.end()) {
    state.router_step = found->at("step").get<std::int64_t>();
    for (const Json& row : found->at("layers")) {
      state.router_rows.push_back(router_row(row));
    }
  }
  if (const auto found = json.find("router_watch"); found != json.end()) {
    state.warnings.restore(*found);
  }
  return state;
}

Json RunState::routers() const {
  if (router_rows.empty()) {
    return nullptr;
  }
  Json list = Json::array();
  for (const RouterWarning& warning : warnings.lasting()) {
    list.push_back(train::to_json(warning));
  }
  return {
      {"step", router_step},
      {"layers", rows_to_json(router_rows)},
      {"warnings", list}};
}

}  // namespace einforge::train
