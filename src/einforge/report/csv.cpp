#include "einforge/report/csv.h"

#include <fmt/format.h>

#include <cmath>
#include <string_view>

#include "einforge/base/text.h"
#include "einforge/report/json.h"

namespace einforge::report {
namespace {

using base::Json;

// One CSV field, quoted where it must be.
std::string field(const Json& json) {
  if (json.is_null()) {
    return "";
  }
  std::string text =
      json.is_string() ? json.get<std::string>() : dump(json, -1);
  // A spreadsheet would run it as a formula.
  if (json.is_string() && !text.empty() &&
      std::string_view("=+-@\t\r").find(text.front()) != std::string::npos) {
    text = fmt::format("'{}", text);
  }
  // A row is a line, and may be looked at in a terminal.
  text = base::printable(text);
  if (text.find_first_of(",\"#") == std::string::npos) {
    return text;
  }
  std::string quoted = "\"";
  for (const char c : text) {
    quoted += c == '"' ? "\"\"" : std::string(1, c);
  }
  return quoted + "\"";
}

// The objects' values under the keys of the first; an interval becomes two
// columns.
std::string to_csv(const Json& rows, const std::vector<std::string>& keys) {
  const auto is_interval = [](const std::string& key) {
    return key.ends_with("ci95");
  };
  std::string csv;
  for (const std::string& key : keys) {
    csv += csv.empty() ? "" : ",";
    csv += is_interval(key) ? key + "_low," + key + "_high" : key;
  }
  csv += "\n";
  for (const Json& row : rows) {
    std::string line;
    for (const std::string& key : keys) {
      const Json& value = row.at(key);
      line += &key == &keys.front() ? "" : ",";
      if (!is_interval(key)) {
        line += field(value);
      } else if (value.is_null()) {
        line += ",";
      } else {
        line += field(value[0]) + "," + field(value[1]);
      }
    }
    csv += line + "\n";
  }
  return csv;
}

}  // namespace

std::string ranking_csv(const Summary& summary) {
  return to_csv(
      ranking_json(summary),
      {"structure",
       "compute_multiplier",
       "ci95",
       "note",
       "wall_clock_multiplier",
       "wall_clock_ci95",
       "wall_clock_note",
       "exponent",
       "exponent_ci95",
       "omega",
       "psi",
       "nu",
       "best_loss",
       "best_trial",
       "parameters",
       "flops",
       "trials",
       "status",
       "rank",
       "shown",
       "wall_clock_shown"});
}

std::string ranking_csv(const scaling::Analysis& analysis) {
  return to_csv(
      to_json(analysis).at("structures"),
      {"structure",
       "compute_multiplier",
       "ci95",
       "note",
       "exponent",
       "exponent_ci95",
       "floor",
       "floor_ci95",
       "scale",
       "best_loss",
       "runs",
       "law_runs",
       "law_note",
       "rank",
       "shown"});
}

std::string points_csv(const std::vector<scaling::Run>& runs) {
  std::string csv =
      "structure,run,compute,loss,seconds,tokens,model,learning_rate,"
      "parameters\n";
  const auto positive = [](double value) {
    return std::isfinite(value) && value > 0 ? dump(Json(value), -1) : "";
  };
  for (const scaling::Run& run : runs) {
    if (run.diverged) {
      continue;
    }
    for (const scaling::Point& point : run.points) {
      const std::string compute = positive(point.compute);
      const std::string loss = positive(point.loss);
      if (compute.empty() || loss.empty()) {
        continue;
      }
      csv += fmt::format(
          "{},{},{},{},{},{},{},{},{}\n",
          field(run.structure),
          field(run.name),
          compute,
          loss,
          positive(point.seconds),
          positive(point.tokens),
          field(run.model),
          positive(run.learning_rate),
          positive(run.parameters));
    }
  }
  return csv;
}

}  // namespace einforge::report
