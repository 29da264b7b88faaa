#include "einforge/train/router_watch.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <numeric>

namespace einforge::train {
namespace {

base::Json list(const std::vector<RouterWarning>& warnings) {
  base::Json json = base::Json::array();
  for (const RouterWarning& w : warnings) {
    json.push_back({w.layer, w.kind, w.message, w.since, w.step});
  }
  return json;
}

std::vector<RouterWarning> warnings_of(const base::Json& json) {
  std::vector<RouterWarning> warnings;
  for (const base::Json& w : json) {
    warnings.push_back(
        {w.at(0).get<std::string>(),
         w.at(1).get<std::string>(),
         w.at(2).get<std::string>(),
         w.at(3).get<std::int64_t>(),
         w.at(4).get<std::int64_t>()});
  }
  return warnings;
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
      // There is no capacity that a token could exceed.
      {"dropped", 0},
      {"dead", health.dead},
      {"largest_share", health.largest_share}};
}

base::Json to_json(const RouterWarning& warning) {
  const std::string since = warning.since < warning.step
                                ? fmt::format(", since step {}", warning.since)
                                : "";
  return {
      {"layer", warning.layer},
      {"kind", warning.kind},
      {"since", warning.since},
      {"step", warning.step},
      {"message",
       fmt::format("{} at step {}{}", warning.message, warning.step, since)}};
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
  const auto warn = [&](const char* kind, const std::string& what) {
    found.push_back(
        {row.layer,
         kind,
         fmt::format("router of {}: {} of {} tokens", row.layer, what, tokens),
         step,
         step});
  };
  if (row.health.dead > 0) {
    std::vector<std::int64_t> dead;
    for (std::int64_t e = 0; e < experts; ++e) {
      if (counts[static_cast<std::size_t>(e)] == 0) {
        dead.push_back(e);
      }
    }
    // E may be thousands.
    constexpr std::size_t kMostNamed = 8;
    const bool cut = dead.size() > kMostNamed;
    const std::size_t all = dead.size();
    dead.resize(std::min(all, kMostNamed));
    warn(
        "dead",
        fmt::format(
            "expert{} {}{} took none",
            all > 1 ? "s" : "",
            fmt::join(dead, ", "),
            cut ? fmt::format(" and {} more", all - kMostNamed) : ""));
  }
  const double even =
      static_cast<double>(row.active) / static_cast<double>(experts);
  if (row.health.largest_share > std::max(0.5, 1.5 * even)) {
    const auto busiest = std::max_element(counts.begin(), counts.end());
    warn(
        "crowded",
        fmt::format(
            "expert {} took {:.0f}%",
            busiest - counts.begin(),
            100 * row.health.largest_share));
  }
  return found;
}

std::vector<RouterWarning> RouterWarnings::add(
    const std::vector<RouterWarning>& found) {
  const auto same = [](std::vector<RouterWarning>& in, const RouterWarning& w) {
    return std::find_if(in.begin(), in.end(), [&](const RouterWarning& other) {
      return other.layer == w.layer && other.kind == w.kind;
    });
  };
  std::vector<RouterWarning> row;
  std::vector<RouterWarning> now_lasting;
  for (RouterWarning warning : found) {
    const auto before = same(last_row_, warning);
    if (before != last_row_.end()) {
      warning.since = before->since;
      const bool second = before->since == before->step;
      if (second) {
        now_lasting.push_back(warning);
      }
      const auto known = same(lasting_, warning);
      if (known != lasting_.end()) {
        *known = warning;
      } else {
        lasting_.push_back(warning);
      }
    }
    row.push_back(std::move(warning));
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

RouterWatch::RouterWatch(torch::nn::Module& model)
    : routers_(nn::routers(model)) {
  for (auto& [name, router] : routers_) {
    // The mixture that it routes for, or the attention of a shared one.
    name.resize(name.rfind('.'));
  }
}

torch::Tensor RouterWatch::loss() const {
  return nn::auxiliary_loss(routers_);
}

void RouterWatch::update_biases() {
  for (const auto& [layer, router] : routers_) {
    router->update_bias();
  }
}

std::vector<RouterRow> RouterWatch::look() const {
  std::vector<RouterRow> rows;
  for (const auto& [layer, router] : routers_) {
    rows.push_back({layer, router->active(), router->health()});
  }
  return rows;
}

}  // namespace einforge::train
