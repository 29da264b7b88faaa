#include "einforge/report/ranking.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "einforge/base/text.h"
#include "einforge/report/confirmation.h"
#include "einforge/report/json.h"

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

// Whether the note says that the multiplier is not to be quoted.
bool doubtful(
    const scaling::StructureAnalysis& analysis, const std::string& baseline) {
  return analysis.multiplier && analysis.structure != baseline &&
         !analysis.multiplier_shown;
}

// With a "?" where it is doubtful.
std::string multiplier(
    const scaling::StructureAnalysis& analysis, const std::string& baseline) {
  return with_interval(
      analysis.multiplier,
      analysis.multiplier_ci95,
      doubtful(analysis, baseline) ? "x?" : "x");
}

std::string multiplier(
    const std::optional<scaling::StructureAnalysis>& analysis,
    const std::string& baseline) {
  return analysis ? multiplier(*analysis, baseline) : "-";
}

std::string taxonomy(const store::Trial* best, const char* key) {
  if (best == nullptr || !best->taxonomy.is_object()) {
    return "-";
  }
  const base::Json& values = best->taxonomy;
  return values.contains(key) && values[key].is_number()
             ? fmt::format("{:.2f}", values[key].get<double>())
             : "-";
}

// What programs write into a store may hold escape sequences, which a terminal
// would obey.
std::string plain(const std::string& text) {
  return base::printable(text);
}

// A structure's, cut where it would leave no room for the numbers.
std::string name(const std::string& structure) {
  constexpr std::size_t kMost = 60;
  return structure.size() > kMost ? plain(structure.substr(0, kMost)) + "..."
                                  : plain(structure);
}

// A line for each note, with the structures that it is about.
class Notes {
 public:
  void add(const std::string& structure, const std::string& note) {
    if (note.empty()) {
      return;
    }
    const auto found =
        std::find_if(notes_.begin(), notes_.end(), [&](const auto& known) {
          return known.first == note;
        });
    if (found != notes_.end()) {
      found->second.push_back(structure);
    } else {
      notes_.push_back({note, {structure}});
    }
  }

  std::string text() const {
    constexpr std::size_t kMost = 4;
    std::string text;
    for (const auto& [note, structures] : notes_) {
      const std::size_t named =
          structures.size() > kMost + 1 ? kMost : structures.size();
      std::string names;
      for (std::size_t i = 0; i < named; ++i) {
        names += (i == 0 ? "" : ", ") + name(structures[i]);
      }
      if (named < structures.size()) {
        names += fmt::format(" and {} more", structures.size() - named);
      }
      text += fmt::format("{}: {}\n", names, plain(note));
    }
    return text;
  }

 private:
  std::vector<std::pair<std::string, std::vector<std::string>>> notes_;
};

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
        "95% intervals from a bootstrap over runs; runs scatter about their "
        "laws by "
        "{:.2g}% of the loss, known from {} degrees of freedom",
        100 * analysis.noise.value_or(0),
        analysis.degrees_of_freedom);
  }
  if (analysis.interval_method == "resampled runs") {
    return "95% intervals from resampled runs: too few runs to measure noise";
  }
  return "no intervals";
}

// The sentence to quote, or why there is none.
std::string headline(const scaling::Analysis& analysis) {
  for (const auto& structure : analysis.structures) {
    const auto& interval = structure.multiplier_ci95;
    if (structure.structure == analysis.headline && interval) {
      return fmt::format(
          "{} reaches {}'s loss with {} times {} (95% interval {} to {})\n",
          name(structure.structure),
          name(analysis.baseline),
          number(structure.multiplier),
          analysis.metric == scaling::Metric::kSeconds  ? "less time"
          : analysis.metric == scaling::Metric::kTokens ? "fewer tokens"
                                                        : "less compute",
          number(interval->low),
          number(interval->high));
    }
  }
  return analysis.headline_note.empty() ? ""
                                        : plain(analysis.headline_note) + "\n";
}

// What "?" after a multiplier means, where there is one.
std::string unproven_mark(
    const scaling::Analysis& compute, const scaling::Analysis& seconds) {
  for (const scaling::Analysis* analysis : {&compute, &seconds}) {
    for (const auto& structure : analysis->structures) {
      if (doubtful(structure, analysis->baseline)) {
        return ", ? was not shown by these runs";
      }
    }
  }
  return "";
}

// The first warning about a trial's routers, and how many there are.
std::string router_note(const store::Trial& trial) {
  if (!trial.routers.is_object()) {
    return "";
  }
  const auto found = trial.routers.find("warnings");
  if (found == trial.routers.end()) {
    return "";
  }
  const base::Json& warnings = *found;
  if (!warnings.is_array() || warnings.empty()) {
    return "";
  }
  const std::size_t more = warnings.size() - 1;
  return fmt::format(
      "{} {}, trial {}: {}{}\n",
      name(trial.structure),
      plain(trial.model),
      plain(trial.id.substr(0, 8)),
      plain(text_at(warnings[0], "message")),
      more > 0 ? fmt::format(", and {} more", more) : "");
}

// The first of the trials with warnings, and how many more there are.
std::string router_notes(const Summary& summary) {
  constexpr int kMost = 5;
  std::string text;
  int count = 0;
  for (const TrialRecord& record : summary.trials) {
    const std::string note = router_note(record.trial);
    if (!note.empty() && ++count <= kMost) {
      text += note;
    }
  }
  if (count > kMost) {
    text += fmt::format(
        "{} more trials with router warnings: see the page\n", count - kMost);
  }
  return text;
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
  Notes notes;
  for (const RankedStructure& row : summary.ranking) {
    const store::Trial* best =
        row.best ? &summary.trials[*row.best].trial : nullptr;
    rows.push_back(
        {name(row.structure),
         multiplier(row.compute, summary.baseline),
         multiplier(row.wall_clock, summary.baseline),
         best != nullptr ? fmt::format("{:.4f}", best->final_loss) : "-",
         best != nullptr
             ? base::human_count(static_cast<double>(best->parameters))
             : "-",
         best != nullptr ? base::human_count(best->flops) : "-",
         taxonomy(best, "omega"),
         taxonomy(best, "psi"),
         taxonomy(best, "nu"),
         row.status});
    if (row.structure != summary.baseline) {
      notes.add(
          row.structure,
          row.compute ? row.compute->multiplier_note : "no training curve");
    }
  }
  std::string text = format_table(rows) + notes.text() + router_notes(summary);
  for (const std::string& notice : summary.notices) {
    text += plain(notice) + "\n";
  }
  if (const std::string found = confirmation(summary.metadata);
      !found.empty()) {
    text += base::printable(found) + "\n";
  }
  return text + headline(summary.compute) +
         (summary.wall_clock.headline ? headline(summary.wall_clock) : "") +
         fmt::format(
             "multiplier: {}'s cost / the structure's cost at equal loss, "
             "above 1 is better{}; {}\n",
             name(summary.baseline),
             unproven_mark(summary.compute, summary.wall_clock),
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
  Notes notes;
  for (const auto& structure : analysis.structures) {
    using Value = std::optional<double>;
    const auto& law = structure.law;
    rows.push_back(
        {name(structure.structure),
         multiplier(structure, analysis.baseline),
         with_interval(
             law ? Value(law->exponent) : std::nullopt,
             structure.exponent_ci95),
         with_interval(
             law ? Value(law->floor) : std::nullopt, structure.floor_ci95),
         fmt::format("{:.4f}", structure.best_loss),
         fmt::format("{}", structure.runs)});
    if (structure.structure != analysis.baseline) {
      notes.add(structure.structure, structure.multiplier_note);
    }
    notes.add(structure.structure, structure.law_note);
  }
  return format_table(rows) + notes.text() + headline(analysis) +
         fmt::format(
             "loss = floor + scale * {}^-exponent{}{}; {}\n",
             scaling::to_string(analysis.metric),
             analysis.shared_floor ? ", one floor for all structures" : "",
             unproven_mark(analysis, analysis),
             interval_note(analysis));
}

}  // namespace einforge::report
