#include "einforge/train/router_watch.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <iterator>
#include <limits>
#include <numeric>

namespace einforge::train {
namespace {

base::Json list(const std::vector<RouterWarning>& warnings) {
  base::Json json = base::Json::array();
  for (const RouterWarning& w : warnings) {
    json.push_back(
        {w.layer, w.kind, w.experts, w.took, w.tokens, w.since, w.step});
  }
  return json;
}

std::vector<RouterWarning> warnings_of(const base::Json& json) {
  std::vector<RouterWarning> warnings;
  for (const base::Json& w : json) {
    warnings.push_back(
        {w.at(0).get<std::string>(),
         w.at(1).get<std::string>(),
         w.at(2).get<std::vector<std::int64_t>>(),
         w.at(3).get<std::string>(),
         w.at(4).get<std::int64_t>(),
         w.at(5).get<std::int64_t>(),
         w.at(6).get<std::int64_t>()});
  }
  return warnings;
}

// Takes the experts of `other` out of `experts` and returns them; both are
// sorted.
std::vector<std::int64_t> take(
    std::vector<std::int64_t>& experts,
    const std::vector<std::int64_t>& other) {
  std::vector<std::int64_t> common;
  std::ranges::set_intersection(experts, other, std::back_inserter(common));
  std::vector<std::int64_t> rest;
  std::ranges::set_difference(experts, common, std::back_inserter(rest));
  experts = std::move(rest);
  return common;
}

bool is_like(const RouterWarning& a, const RouterWarning& b) {
  return a.layer == b.layer && a.kind == b.kind;
}

}  // namespace

std::int64_t RouterRow::tokens() const {
  return std::accumulate(
             health.tokens.begin(), health.tokens.end(), std::int64_t{0}) /
         active;
}

base::Json to_json(const RouterRow& row) {
  const nn::RouterHealth& health = row.health;
  return {
      {"layer", row.layer},
      {"active", row.active},
      {"tokens", health.tokens},
      {"token_entropy", health.token_entropy},
      {"aggregate_entropy", health.aggregate_entropy},
      {"balance_loss", health.balance_loss},
      {"z_loss", health.z_loss},
      {"dead", health.dead},
      {"largest_share", health.largest_share}};
}

RouterRow router_row(const base::Json& json) {
  RouterRow row;
  row.layer = json.at("layer").get<std::string>();
  row.active = json.at("active").get<std::int64_t>();
  // Written as null where it is no number.
  const auto number = [&](const char* key) {
    const base::Json& value = json.at(key);
    return value.is_null() ? std::numeric_limits<double>::quiet_NaN()
                           : value.get<double>();
  };
  nn::RouterHealth& health = row.health;
  health.tokens = json.at("tokens").get<std::vector<std::int64_t>>();
  health.token_entropy = number("token_entropy");
  health.aggregate_entropy = number("aggregate_entropy");
  health.balance_loss = number("balance_loss");
  health.z_loss = number("z_loss");
  health.dead = json.at("dead").get<std::int64_t>();
  health.largest_share = number("largest_share");
  return row;
}

base::Json to_json(const RouterWarning& warning) {
  const std::string since = warning.since < warning.step
                                ? fmt::format(", since step {}", warning.since)
                                : "";
  return {
      {"layer", warning.layer},
      {"kind", warning.kind},
      {"experts", warning.experts},
      {"since", warning.since},
      {"step", warning.step},
      {"message",
       fmt::format("{} at step {}{}", warning.message(), warning.step, since)}};
}

std::string RouterWarning::message() const {
  constexpr std::size_t kMostNamed = 8;  // E may be thousands
  const std::size_t named = std::min(experts.size(), kMostNamed);
  return fmt::format(
      "router of {}: expert{} {}{} took {} of {} tokens",
      layer,
      experts.size() > 1 ? "s" : "",
      fmt::join(experts.begin(), experts.begin() + named, ", "),
      named < experts.size()
          ? fmt::format(" and {} more", experts.size() - named)
          : "",
      took,
      tokens);
}

std::vector<RouterWarning> find_warnings(
    const RouterRow& row, std::int64_t step) {
  constexpr std::int64_t kEnough = 16;
  const auto& counts = row.health.tokens;
  const auto experts = static_cast<std::int64_t>(counts.size());
  const std::int64_t tokens = row.tokens();
  if (tokens * row.active < kEnough * experts) {
    return {};
  }
  std::vector<RouterWarning> found;
  if (row.health.dead > 0) {
    std::vector<std::int64_t> dead;
    for (std::int64_t e = 0; e < experts; ++e) {
      if (counts[static_cast<std::size_t>(e)] == 0) {
        dead.push_back(e);
      }
    }
    found.push_back({row.layer, "dead", dead, "none", tokens, step, step});
  }
  const double even =
      static_cast<double>(row.active) / static_cast<double>(experts);
  if (row.health.largest_share > std::max(0.5, 1.5 * even)) {
    const auto busiest = std::max_element(counts.begin(), counts.end());
    found.push_back(
        {row.layer,
         "overloaded",
         {busiest - counts.begin()},
         fmt::format("{:.0f}%", 100 * row.health.largest_share),
         tokens,
         step,
         step});
  }
  return found;
}

std::vector<RouterWarning> RouterWarnings::add(
    const std::vector<RouterWarning>& found) {
  std::vector<RouterWarning> row;
  std::vector<RouterWarning> now_lasting;
  for (RouterWarning warning : found) {
    RouterWarning lasting = warning;
    lasting.experts.clear();
    lasting.since = 0;
    for (const RouterWarning& before : last_row_) {
      if (!is_like(before, warning)) {
        continue;
      }
      RouterWarning same = warning;
      same.experts = take(warning.experts, before.experts);
      same.since = before.since;
      if (same.experts.empty()) {
        continue;
      }
      lasting.experts.insert(
          lasting.experts.end(), same.experts.begin(), same.experts.end());
      lasting.since = std::max(lasting.since, same.since);
      if (before.since == before.step) {  // this is the second row
        now_lasting.push_back(same);
      }
      row.push_back(std::move(same));
    }
    if (!lasting.experts.empty()) {
      std::ranges::sort(lasting.experts);
      const auto known = std::ranges::find_if(
          lasting_,
          [&](const RouterWarning& other) { return is_like(other, lasting); });
      if (known != lasting_.end()) {
        *known = std::move(lasting);
      } else {
        lasting_.push_back(std::move(lasting));
      }
    }
    if (!warning.experts.empty()) {
      row.push_back(std::move(warning));
    }
  }
  last_row_ = std::move(row);
  return now_lasting;
}

base::Json RouterWarnings::state() const {
  return {{"last_row", list(last_row_)}, {"lasting", list(lasting_)}};
}

void RouterWarnings::restore(const base::Json& state) {
  last_row_ = warnings_of(state.at("last_row"));
  lasting_ = warnings_of(state.at("lasting"));
}

RouterWatch::RouterWatch(
    torch::nn::Module& model, std::string reduce, distributed::World& world)
    : routers_(nn::routers(model)), reduce_(std::move(reduce)), world_(world) {
  for (auto& [name, router] : routers_) {
    router->wait_for_counts(!world.is_alone());
    // The mixture that it routes for, or the attention of a shared one.
    name.resize(name.rfind('.'));
  }
}

torch::Tensor RouterWatch::loss() const {
  // One message for all routers.
  std::vector<torch::Tensor> counts;
  std::vector<std::int64_t> sizes;
  for (const auto& [layer, router] : routers_) {
    if (router->counts().defined()) {
      counts.push_back(router->counts());
      sizes.push_back(router->counts().size(0));
    }
  }
  if (!counts.empty()) {
    const torch::Tensor all = torch::cat(counts);
    world_.sum(all);
    auto part = all.split_with_sizes(sizes);
    auto next = part.begin();
    for (const auto& [layer, router] : routers_) {
      if (router->counts().defined()) {
        router->finish_loss(*next++);
      }
    }
  }
  return nn::auxiliary_loss(routers_, reduce_);
}

void RouterWatch::update_biases() {
  for (const auto& [layer, router] : routers_) {
    router->update_bias();
  }
}

torch::Tensor RouterWatch::health_sums() const {
  std::vector<torch::Tensor> sums;
  for (const auto& [layer, router] : routers_) {
    sums.push_back(router->health_sums());
  }
  return torch::cat(sums);
}

std::vector<RouterRow> RouterWatch::rows(const torch::Tensor& sums) const {
  world_.sum(sums);  // one message for all routers
  const torch::Tensor read = sums.cpu();
  std::vector<RouterRow> rows;
  std::int64_t at = 0;
  for (const auto& [layer, router] : routers_) {
    const std::int64_t size = 2 * router->experts() + 2;
    rows.push_back(
        {layer,
         router->active(),
         router->health(read.narrow(0, at, size), world_.size())});
    at += size;
  }
  return rows;
}

RouterWatch::Aside::Aside(RouterWatch& watch) : watch_(watch) {
  for (const auto& [layer, router] : watch_.routers_) {
    seen_.push_back(router->seen());
  }
}

RouterWatch::Aside::~Aside() {
  auto seen = seen_.begin();
  for (const auto& [layer, router] : watch_.routers_) {
    router->set_seen(std::move(*seen++));
  }
}

}  // namespace einforge::train
