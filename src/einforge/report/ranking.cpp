#include "einforge/report/ranking.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "einforge/base/text.h"

namespace einforge::report {
namespace {

using Row = std::vector<std::string>;

std::string number(const std::optional<double>& value, int digits = 3) {
  return value && std::isfinite(*value) ? fmt::format("{:.{}g}", *value, digits)
                                        : "-";
}

std::string with_interval(
    const std::optional<double>& value,
    const std::optional<scaling::Interval>& interval,
    const char* unit = "") {
  if (!value) {
    return "-";
  }
  if (!interval || interval->low == interval->high) {
    return number(value) + unit;
  }
  return fmt::format(
      "{}{} [{}, {}]",
      number(value),
      unit,
      number(interval->low),
      number(interval->high));
}

std::string multiplier(
    const std::optional<scaling::StructureAnalysis>& analysis) {
  return analysis ? with_interval(
                        analysis->multiplier, analysis->multiplier_ci95, "x")
                  : "-";
}

std::string taxonomy(const RankedStructure& row, const char* key) {
  if (!row.best || !row.best->trial.taxonomy.is_object()) {
    return "-";
  }
  const base::Json& values = row.best->trial.taxonomy;
  return values.contains(key) && values[key].is_number()
             ? fmt::format("{:.2f}", values[key].get<double>())
             : "-";
}

// Columns as wide as their widest cell; the first one left, the others right.
std::string format_table(const std::vector<Row>& rows) {
  std::vector<std::size_t> widths(rows[0].size(), 0);
  for (const Row& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i) {
      widths[i] = std::max(widths[i], row[i].size());
    }
  }
  std::string text;
  for (std::size_t r = 0; r < rows.size(); ++r) {
    std::string line = fmt::format("{:<{}}", rows[r][0], widths[0]);
    for (std::size_t i = 1; i < rows[r].size(); ++i) {
      line += fmt::format("  {:>{}}", rows[r][i], widths[i]);
    }
    text += line + "\n";
    if (r == 0) {
      text += std::string(line.size(), '-') + "\n";
    }
  }
  return text;
}

std::string interval_note(const scaling::Analysis& analysis) {
  if (analysis.interval_method == "run noise") {
    return fmt::format(
        "95% intervals from a bootstrap over runs; run-to-run noise {:.2g}% of "
        "the loss, known from {} degrees of freedom",
        100 * analysis.noise.value_or(0),
        analysis.degrees_of_freedom);
  }
  if (analysis.interval_method == "resampled runs") {
    return "95% intervals from resampled runs: too few runs to measure noise";
  }
  return "no intervals";
}

// The first warning about a trial's routers, and how many there are.
std::string router_note(const store::Trial& trial) {
  if (!trial.routers.is_object()) {
    return "";
  }
  const base::Json warnings = trial.routers.value("warnings", base::Json());
  if (!warnings.is_array() || warnings.empty()) {
    return "";
  }
  const std::size_t more = warnings.size() - 1;
  return fmt::format(
      "{} {}, trial {}: {}{}\n",
      trial.structure,
      trial.model,
      trial.id.substr(0, 8),
      warnings[0].value("message", ""),
      more > 0 ? fmt::format(", and {} more", more) : "");
}

}  // namespace

std::string ranking_table(const Summary& summary) {
  if (summary.ranking.empty()) {
    return "no trials\n";
  }
  std::vector<Row> rows = {
      {"structure",
       "compute multiplier",
       "wall-clock multiplier",
       "best loss",
       "params",
       "FLOPs",
       "omega",
       "psi",
       "nu",
       "trials"}};
  std::string notes;
  for (const RankedStructure& row : summary.ranking) {
    const bool has_best = row.best.has_value();
    rows.push_back(
        {row.structure,
         multiplier(row.compute),
         multiplier(row.wall_clock),
         has_best ? fmt::format("{:.4f}", row.best->trial.final_loss) : "-",
         has_best ? base::human_count(
                        static_cast<double>(row.best->trial.parameters))
                  : "-",
         has_best ? base::human_count(row.best->trial.flops) : "-",
         taxonomy(row, "omega"),
         taxonomy(row, "psi"),
         taxonomy(row, "nu"),
         row.status});
    if (row.structure == summary.baseline) {
      continue;
    }
    if (!row.compute) {
      notes += fmt::format("{}: no training curve\n", row.structure);
    } else if (!row.compute->multiplier_note.empty()) {
      notes +=
          fmt::format("{}: {}\n", row.structure, row.compute->multiplier_note);
    }
  }
  for (const TrialRecord& record : summary.trials) {
    notes += router_note(record.trial);
  }
  return format_table(rows) + notes +
         fmt::format(
             "multiplier: {}'s cost / the structure's cost at equal loss, "
             "above "
             "1 is better; {}\n",
             summary.baseline,
             interval_note(summary.compute));
}

std::string fit_table(const scaling::Analysis& analysis) {
  if (analysis.structures.empty()) {
    return fmt::format(
        "no run has a point with a positive loss and {}\n",
        scaling::to_string(analysis.metric));
  }
  std::vector<Row> rows = {
      {"structure",
       fmt::format("{} multiplier", scaling::to_string(analysis.metric)),
       "exponent",
       "floor",
       "best loss",
       "runs"}};
  std::string notes;
  for (const auto& structure : analysis.structures) {
    using Value = std::optional<double>;
    const auto& law = structure.law;
    rows.push_back(
        {structure.structure,
         with_interval(structure.multiplier, structure.multiplier_ci95, "x"),
         with_interval(
             law ? Value(law->exponent) : std::nullopt,
             structure.exponent_ci95),
         with_interval(
             law ? Value(law->floor) : std::nullopt, structure.floor_ci95),
         fmt::format("{:.4f}", structure.best_loss),
         fmt::format("{}", structure.runs)});
    for (const std::string* note :
         {&structure.multiplier_note, &structure.law_note}) {
      if (!note->empty() && structure.structure != analysis.baseline) {
        notes += fmt::format("{}: {}\n", structure.structure, *note);
      }
    }
  }
  return format_table(rows) + notes +
         fmt::format(
             "loss = floor + scale * {}^-exponent{}; {}\n",
             scaling::to_string(analysis.metric),
             analysis.shared_floor ? ", one floor for all structures" : "",
             interval_note(analysis));
}

}  // namespace einforge::report
