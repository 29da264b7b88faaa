#include "einforge/report/space.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <set>
#include <utility>

#include "einforge/report/style.h"

namespace einforge::report {
namespace {

using base::Json;

// More levels of a number are put together.
constexpr std::size_t kMostLevels = 16;

struct Column {
  std::string name;
  bool ordered = false;
  std::vector<std::string> values;  // beside the trials; "" where unknown
};

std::string number(const Json& json) {
  return json.is_number() ? fmt::format("{:.6g}", json.get<double>()) : "";
}

// The part of a configuration under a pointer, or null.
Json at(const Json& config, const char* pointer) {
  const Json::json_pointer where(pointer);
  return config.is_object() && config.contains(where) ? config.at(where)
                                                      : Json();
}

// A kind of layers that is structured like an earlier one in every trial is a
// part of its axis.
void add_structures(
    const std::vector<const store::Trial*>& trials,
    std::vector<Column>& columns) {
  static constexpr std::array<std::pair<const char*, const char*>, 5> kKinds{
      {{"qkv", "/model/structure/q"},
       {"attention_out", "/model/structure/attention_out"},
       {"ffn_in", "/model/structure/ffn_in"},
       {"ffn_out", "/model/structure/ffn_out"},
       {"head", "/model/structure/head"}}};
  std::vector<Column> kinds;
  for (const auto& [name, pointer] : kKinds) {
    Column column{name, false, {}};
    std::set<std::string> levels;
    for (const store::Trial* trial : trials) {
      Json own = at(trial->config, pointer);
      if (!own.is_string() || own.get_ref<const std::string&>().empty()) {
        own = at(trial->config, "/model/structure/all");
      }
      column.values.push_back(
          own.is_string() ? display_name(own.get<std::string>())
                          : trial->structure);
      levels.insert(column.values.back());
    }
    if (levels.size() < 2) {
      continue;
    }
    const auto same = std::ranges::find(kinds, column.values, &Column::values);
    if (same == kinds.end()) {
      kinds.push_back(std::move(column));
    } else {
      same->name += ", " + column.name;
    }
  }
  if (kinds.size() == 1) {
    kinds.front().name = "structure";
  }
  std::ranges::move(kinds, std::back_inserter(columns));
}

std::vector<Column> columns_of(const std::vector<const store::Trial*>& trials) {
  std::vector<Column> columns;
  add_structures(trials, columns);
  for (const auto& [name, pointer] :
       {std::pair{"width", "/model/width"},
        std::pair{"layers", "/model/layers"}}) {
    Column& column = columns.emplace_back(Column{name, true, {}});
    for (const store::Trial* trial : trials) {
      column.values.push_back(number(at(trial->config, pointer)));
    }
  }
  Column& rates = columns.emplace_back(Column{"learning rate", true, {}});
  for (const store::Trial* trial : trials) {
    rates.values.push_back(number(trial->learning_rate));
  }
  return columns;
}

// The levels of a column in order, and that of each trial.
std::pair<Space::Axis, std::vector<int>> levels_of(const Column& column) {
  Space::Axis axis{column.name, column.ordered, {}};
  std::map<std::string, int> levels;
  if (column.ordered) {
    std::map<double, std::string> values;
    for (const std::string& value : column.values) {
      values.emplace(std::stod(value), value);
    }
    const std::size_t each = (values.size() + kMostLevels - 1) / kMostLevels;
    std::size_t index = 0;
    for (const auto& [value, text] : values) {
      if (index++ % each == 0) {
        axis.levels.push_back(text);
      } else if (index % each == 0 || index == values.size()) {
        axis.levels.back() += " to " + text;
      }
      levels[text] = static_cast<int>(axis.levels.size()) - 1;
    }
  } else {
    for (const std::string& value : column.values) {
      if (levels.emplace(value, axis.levels.size()).second) {
        axis.levels.push_back(value);
      }
    }
  }
  std::vector<int> result;
  for (const std::string& value : column.values) {
    result.push_back(levels.at(value));
  }
  return {std::move(axis), std::move(result)};
}

}  // namespace

Space space_of(const std::vector<TrialRecord>& trials) {
  Space space;
  std::vector<const store::Trial*> known;
  for (std::size_t i = 0; i < trials.size(); ++i) {
    const store::Trial& trial = trials[i].trial;
    if (counts(trial) && trial.final_loss > 0 &&
        std::isfinite(trial.final_loss) && !trials[i].curve.empty()) {
      known.push_back(&trial);
      space.points.push_back({i, {}});
    }
  }
  for (const Column& column : columns_of(known)) {
    if (std::ranges::find(column.values, "") != column.values.end()) {
      continue;
    }
    auto [axis, levels] = levels_of(column);
    if (axis.levels.size() < 2) {
      continue;
    }
    space.axes.push_back(std::move(axis));
    for (std::size_t i = 0; i < levels.size(); ++i) {
      space.points[i].levels.push_back(levels[i]);
    }
  }
  return space;
}

std::optional<SpaceImportances> importances_of(
    const Space& space, const std::vector<TrialRecord>& trials) {
  constexpr std::size_t kFewest = 12;
  if (space.points.size() < kFewest || space.axes.empty()) {
    return std::nullopt;
  }
  std::vector<scaling::Axis> axes;
  for (const Space::Axis& axis : space.axes) {
    axes.push_back(
        {axis.name, static_cast<int>(axis.levels.size()), axis.ordered});
  }
  // How far each trial went, in eighths of the logarithm's unit.
  std::map<int, int> lengths;
  std::vector<int> length;
  for (const Space::Point& point : space.points) {
    const TrialRecord& record = trials[point.trial];
    const Json steps = at(record.trial.config, "/steps");
    const double share = steps.is_number() && steps > 0
                             ? static_cast<double>(record.curve.back().step) /
                                   steps.get<double>()
                             : 1;
    length.push_back(static_cast<int>(
        std::lround(8 * std::log(std::clamp(share, 1e-6, 1.0)))));
    lengths.emplace(length.back(), 0);
  }
  int level = 0;
  for (auto& [share, index] : lengths) {
    index = level++;
  }
  scaling::ImportanceOptions options;
  options.held = static_cast<int>(axes.size());
  axes.push_back({"length", level, true});
  std::vector<scaling::AxisSample> samples;
  for (std::size_t i = 0; i < space.points.size(); ++i) {
    const Space::Point& point = space.points[i];
    samples.push_back(
        {point.levels, std::log(trials[point.trial].trial.final_loss)});
    samples.back().levels.push_back(lengths.at(length[i]));
  }
  scaling::Importances found = scaling::importances(axes, samples, options);
  found.axes.pop_back();
  return SpaceImportances{
      samples.size(), std::move(found.axes), found.together};
}

}  // namespace einforge::report
