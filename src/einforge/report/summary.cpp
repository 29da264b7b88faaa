#include "einforge/report/summary.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <unordered_map>
#include <utility>

#include "einforge/base/hash.h"
#include "einforge/report/expectations.h"
#include "einforge/report/notices.h"
#include "einforge/report/pareto.h"
#include "einforge/report/space.h"
#include "einforge/report/style.h"
#include "einforge/scaling/curve.h"

namespace einforge::report {
namespace {

std::string describe_statuses(const std::map<store::Status, int>& counts) {
  std::string text;
  for (const auto& [status, count] : counts) {
    text += fmt::format(
        "{}{} {}", text.empty() ? "" : ", ", count, store::to_string(status));
  }
  return text;
}

scaling::Run to_run(const TrialRecord& record) {
  const store::Trial& trial = record.trial;
  scaling::Run run;
  run.structure = trial.structure;
  run.name = trial.id;
  run.model = trial.model;
  run.learning_rate = trial.learning_rate;
  if (trial.parameters > 0) {
    run.parameters = static_cast<double>(trial.parameters);
  }
  run.diverged = !counts(trial);
  run.points.reserve(record.curve.size());
  for (const store::CurvePoint& point : record.curve) {
    run.points.push_back(
        {point.flops,
         point.val_loss,
         point.seconds,
         static_cast<double>(point.tokens)});
  }
  return run;
}

// Trainers of before took any loss at the end for a result. What stopped at a
// rung has none: it is what the store says.
void mark_divergence(TrialRecord& record) {
  store::Trial& trial = record.trial;
  if (trial.status != store::Status::kDone) {
    return;
  }
  scaling::Run run = to_run(record);
  std::erase_if(run.points, [](const scaling::Point& point) {
    return std::isnan(point.loss);  // not evaluated there
  });
  if (run.points.empty()) {
    return;
  }
  const double first = run.points.front().loss;
  const double last = run.points.back().loss;
  constexpr double kFarAbove = 1.5;  // more than a noisy evaluation
  if (scaling::has_diverged(run) || std::isinf(last) ||
      (first > 0 && last > kFarAbove * first)) {
    trial.status = store::Status::kDiverged;
    trial.reason = fmt::format(
        "the loss ended at {:.4g}; the first one was {:.4g}", last, first);
  }
}

void note_tokens(TrialRecord& record) {
  for (const store::CurvePoint& point : record.curve) {
    record.tokens = std::max(record.tokens, static_cast<double>(point.tokens));
  }
  if (record.tokens > 0 && record.trial.parameters > 0) {
    record.tokens_per_parameter =
        record.tokens / static_cast<double>(record.trial.parameters);
  }
}

void note_slope(TrialRecord& record) {
  constexpr std::size_t kEnough = 200;
  const scaling::Curve curve = scaling::thin(
      scaling::log_curve(to_run(record), scaling::Metric::kFlops), kEnough);
  const double slope = scaling::end_slope(curve);
  if (std::isfinite(slope)) {
    record.end_slope = slope;
  }
}

// What a trial was trained with but for learning rate and seed, and but for
// what changes no loss. Equal for equal trials.
std::string settings_of(const base::Json& config) {
  base::Json rest = config;
  if (rest.is_object()) {
    for (const char* key :
         {"seed",
          "device",
          "log_every",
          "eval_every",
          "eval_batches",
          "checkpoint_every",
          "keep_checkpoints"}) {
      rest.erase(key);
    }
    if (rest.contains("optimizer") && rest["optimizer"].is_object()) {
      rest["optimizer"].erase("learning_rate");
    }
  }
  return base::hash_hex(base::dump_json(rest));
}

std::vector<RankedStructure> rank(const Summary& summary) {
  std::vector<RankedStructure> ranking;
  std::unordered_map<std::string, std::size_t> index;
  const auto row_of = [&](const std::string& structure) {
    const auto [found, is_new] = index.try_emplace(structure, ranking.size());
    if (is_new) {
      ranking.push_back({structure});
    }
    return found->second;
  };
  // The analysis has the order; what it does not know comes after, as added.
  for (const auto& structure : summary.compute.structures) {
    ranking[row_of(structure.structure)].compute = structure;
  }
  for (const auto& structure : summary.wall_clock.structures) {
    ranking[row_of(structure.structure)].wall_clock = structure;
  }
  std::vector<std::map<store::Status, int>> statuses(ranking.size());
  for (std::size_t i = 0; i < summary.trials.size(); ++i) {
    const store::Trial& trial = summary.trials[i].trial;
    const std::size_t at = row_of(trial.structure);
    statuses.resize(ranking.size());
    ++statuses[at][trial.status];
    RankedStructure& row = ranking[at];
    ++row.trials;
    const bool lower =
        !row.best ||
        trial.final_loss < summary.trials[*row.best].trial.final_loss;
    if (counts(trial) && std::isfinite(trial.final_loss) && lower) {
      row.best = i;
    }
  }
  for (std::size_t i = 0; i < ranking.size(); ++i) {
    ranking[i].status = describe_statuses(statuses[i]);
  }
  return ranking;
}

double cost_of(const store::CurvePoint& point, scaling::Metric metric) {
  return metric == scaling::Metric::kFlops ? point.flops : point.seconds;
}

BudgetTable best_at_budget(
    const std::vector<TrialRecord>& trials, scaling::Metric metric) {
  BudgetTable table;
  table.metric = metric;
  const auto usable = [&](const store::CurvePoint& point) {
    const double cost = cost_of(point, metric);
    return std::isfinite(cost) && cost > 0 && std::isfinite(point.val_loss);
  };
  std::unordered_map<std::string, double> reached;
  for (const TrialRecord& record : trials) {
    for (const store::CurvePoint& point : record.curve) {
      if (counts(record.trial) && usable(point)) {
        double& most = reached[record.trial.structure];
        most = std::max(most, cost_of(point, metric));
      }
    }
  }
  if (reached.empty()) {
    return table;
  }
  table.budget =
      std::min_element(
          reached.begin(),
          reached.end(),
          [](const auto& a, const auto& b) { return a.second < b.second; })
          ->second;
  std::unordered_map<std::string, std::size_t> index;
  for (std::size_t i = 0; i < trials.size(); ++i) {
    const store::Trial& trial = trials[i].trial;
    if (!counts(trial)) {
      continue;
    }
    for (const store::CurvePoint& point : trials[i].curve) {
      if (!usable(point) || cost_of(point, metric) > table.budget) {
        continue;
      }
      const auto [found, is_new] =
          index.try_emplace(trial.structure, table.rows.size());
      if (is_new) {
        table.rows.push_back({});
      }
      BestAtBudget& row = table.rows[found->second];
      if (is_new || point.val_loss < row.loss) {
        row = {
            trial.structure,
            i,
            cost_of(point, metric),
            point.val_loss,
            static_cast<double>(point.tokens)};
      }
    }
  }
  std::stable_sort(
      table.rows.begin(), table.rows.end(), [](const auto& a, const auto& b) {
        return a.loss < b.loss;
      });
  return table;
}

void note_touches(
    std::vector<TrialRecord>& trials, const scaling::Analysis& fit) {
  std::unordered_map<std::string, const scaling::RunAnalysis*> runs;
  for (const auto& structure : fit.structures) {
    for (const scaling::RunAnalysis& run : structure.run_analyses) {
      runs.emplace(run.run, &run);
    }
  }
  for (TrialRecord& record : trials) {
    if (const auto found = runs.find(record.trial.id); found != runs.end()) {
      record.touch = found->second->touch;
    }
  }
}

// Nothing in seconds may be quoted.
void withdraw(scaling::Analysis& seconds) {
  const std::string why = "other programs used the machine";
  for (auto& structure : seconds.structures) {
    if (structure.structure != seconds.baseline) {
      std::string& note = structure.multiplier_note;
      note = note.empty() ? why : why + "; " + note;
      structure.multiplier_shown = false;
    }
  }
  seconds.headline.reset();
  seconds.headline_note = "seconds are no result: " + why;
}

}  // namespace

bool counts(const store::Trial& trial) {
  return trial.status != store::Status::kDiverged &&
         trial.status != store::Status::kFailed;
}

std::vector<TrialRecord> read_trials(const store::Store& store) {
  std::vector<TrialRecord> records;
  for (store::Trial& trial : store.trials()) {
    auto curve = store.curve(trial.id);
    records.push_back(make_record(std::move(trial), std::move(curve)));
  }
  return records;
}

TrialRecord make_record(
    store::Trial trial, std::vector<store::CurvePoint> curve) {
  std::string kind = trial.structure + " " + trial.model;
  TrialRecord record{std::move(trial), std::move(kind), std::move(curve)};
  record.trial.structure = display_name(record.trial.structure);
  mark_divergence(record);
  note_tokens(record);
  note_slope(record);
  return record;
}

std::vector<scaling::Run> to_runs(const std::vector<TrialRecord>& trials) {
  std::vector<scaling::Run> runs;
  for (const TrialRecord& record : trials) {
    if (!record.curve.empty()) {
      runs.push_back(to_run(record));
      runs.back().settings = settings_of(record.trial.config);
    }
  }
  return runs;
}

Summary summarise(const store::Store& store, const SummaryOptions& options) {
  return summarise(read_trials(store), store.metadata(), options);
}

Summary summarise(
    std::vector<TrialRecord> trials,
    base::Json metadata,
    const SummaryOptions& options) {
  Summary summary;
  summary.baseline = display_name(options.baseline);
  summary.seed = options.seed;
  summary.metadata = std::move(metadata);
  summary.trials = std::move(trials);
  const auto runs = scaling::best_learning_rates(to_runs(summary.trials));
  scaling::AnalysisOptions analysis;
  analysis.baseline = summary.baseline;
  analysis.bootstrap = options.bootstrap;
  analysis.seed = options.seed;
  const auto analyse = [&](scaling::Metric metric, double from) {
    analysis.metric = metric;
    if (options.progress) {
      options.progress(from);
      analysis.progress = [&options, from](int done, int total) {
        options.progress(from + 0.5 * done / std::max(1, total));
      };
    }
    return scaling::analyse(runs, analysis);
  };
  summary.compute = analyse(scaling::Metric::kFlops, 0);
  summary.bootstrap = summary.compute.replicates;
  summary.wall_clock = analyse(scaling::Metric::kSeconds, 0.5);
  if (machine_was_busy(summary.metadata)) {
    withdraw(summary.wall_clock);
  }
  note_touches(summary.trials, summary.compute);
  summary.ranking = rank(summary);
  summary.best_by_compute =
      best_at_budget(summary.trials, scaling::Metric::kFlops);
  summary.best_by_seconds =
      best_at_budget(summary.trials, scaling::Metric::kSeconds);
  summary.pareto = pareto_set(summary.trials, summary.metadata);
  summary.space = space_of(summary.trials);
  summary.importances = importances_of(summary.space, summary.trials);
  summary.expectations = expectations_of(summary.trials, summary.metadata);
  summary.notices = notices(summary);
  if (options.progress) {
    options.progress(1);
  }
  return summary;
}

}  // namespace einforge::report
