#include "einforge/search/objective.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "einforge/base/error.h"
#include "einforge/base/text.h"

namespace einforge::search {
namespace {

constexpr std::array kCosts = {
    Cost::kFlops, Cost::kSeconds, Cost::kMemory, Cost::kDecodeMs};

const std::vector<std::pair<std::string, double>>& units() {
  static const std::vector<std::pair<std::string, double>> table = {
      {"B", 1},
      {"kB", 1e3},
      {"MB", 1e6},
      {"GB", 1e9},
      {"TB", 1e12},
      {"KiB", 1024.0},
      {"MiB", 1024.0 * 1024},
      {"GiB", 1024.0 * 1024 * 1024},
      {"TiB", 1024.0 * 1024 * 1024 * 1024}};
  return table;
}

}  // namespace

const char* to_string(Cost cost) {
  switch (cost) {
    case Cost::kFlops:
      return "flops";
    case Cost::kSeconds:
      return "seconds";
    case Cost::kMemory:
      return "memory";
    case Cost::kDecodeMs:
      break;
  }
  return "decode_ms";
}

std::vector<Cost> parse_objective(const std::string& text) {
  std::vector<std::string> names;
  for (const Cost cost : kCosts) {
    names.emplace_back(to_string(cost));
  }
  std::vector<Cost> result;
  for (const std::string& part : base::split(text, ',')) {
    const std::string name(base::trim(part));
    const auto found = std::ranges::find(names, name);
    base::check(
        found != names.end(),
        "objective: expected flops, seconds, memory or decode_ms, or several "
        "of them with commas between; got '{}'{}",
        text,
        base::suggestion(name, names));
    result.push_back(kCosts[static_cast<std::size_t>(found - names.begin())]);
    base::check(
        std::ranges::count(result, result.back()) == 1,
        "objective: expected each once; got '{}'",
        text);
  }
  return result;
}

Constraint parse_constraint(const std::string& text) {
  const auto at = text.find("<=");
  const std::string name(base::trim(text.substr(0, at)));
  base::check(
      at != std::string::npos && (name == "memory" || name == "decode_ms"),
      "constraints: expected 'memory <= NUMBER UNIT' or 'decode_ms <= NUMBER'; "
      "got '{}'",
      text);
  Constraint result;
  result.cost = name == "memory" ? Cost::kMemory : Cost::kDecodeMs;
  const std::string value(base::trim(text.substr(at + 2)));
  const std::size_t end = value.find_last_of("0123456789.") + 1;
  const std::string unit(base::trim(value.substr(end)));
  result.most =
      base::parse_double("constraints: " + name, value.substr(0, end));
  if (result.cost == Cost::kMemory) {
    const auto found = std::ranges::find(
        units(), unit, &std::pair<std::string, double>::first);
    base::check(
        found != units().end(),
        "constraints: expected memory in B, kB, MB, GB, TB, KiB, MiB, GiB or "
        "TiB; got '{}'",
        text);
    result.most *= found->second;
  } else {
    base::check(
        unit.empty() || unit == "ms",
        "constraints: expected decode_ms in ms; got '{}'",
        text);
  }
  base::check(
      result.most > 0 && std::isfinite(result.most),
      "constraints: expected a number above 0; got '{}'",
      text);
  result.text = fmt::format(
      "{} <= {}{}",
      name,
      base::trim(value.substr(0, end)),
      result.cost == Cost::kMemory ? " " + unit : "");
  return result;
}

std::string human_cost(Cost cost, double value) {
  switch (cost) {
    case Cost::kMemory:
      return base::human_count(value) + "B";
    case Cost::kDecodeMs:
      return fmt::format("{:.3g} ms", value);
    case Cost::kSeconds:
      return base::human_duration(value);
    case Cost::kFlops:
      break;
  }
  return base::human_count(value) + " FLOPs";
}

}  // namespace einforge::search
