#include "einforge/report/summary.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

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

std::optional<scaling::StructureAnalysis> find(
    const scaling::Analysis& analysis, const std::string& structure) {
  for (const auto& candidate : analysis.structures) {
    if (candidate.structure == structure) {
      return candidate;
    }
  }
  return std::nullopt;
}

bool is_better(const TrialRecord& a, const std::optional<TrialRecord>& b) {
  return std::isfinite(a.trial.final_loss) &&
         (!b || a.trial.final_loss < b->trial.final_loss);
}

std::vector<RankedStructure> rank(const Summary& summary) {
  std::vector<RankedStructure> ranking;
  std::map<std::string, std::size_t> index;
  std::vector<std::map<store::Status, int>> counts;
  for (const TrialRecord& record : summary.trials) {
    const std::string& structure = record.trial.structure;
    const auto [found, is_new] = index.try_emplace(structure, ranking.size());
    if (is_new) {
      ranking.push_back({structure});
      counts.emplace_back();
    }
    RankedStructure& row = ranking[found->second];
    ++row.trials;
    ++counts[found->second][record.trial.status];
    if (is_better(record, row.best)) {
      row.best = record;
    }
  }
  for (std::size_t i = 0; i < ranking.size(); ++i) {
    ranking[i].status = describe_statuses(counts[i]);
    ranking[i].compute = find(summary.compute, ranking[i].structure);
    ranking[i].wall_clock = find(summary.wall_clock, ranking[i].structure);
  }
  const auto key = [](const RankedStructure& row) {
    const bool has = row.compute && row.compute->multiplier;
    return std::pair(
        has ? -*row.compute->multiplier : 0.0,
        row.best ? row.best->trial.final_loss : INFINITY);
  };
  std::stable_sort(
      ranking.begin(), ranking.end(), [&](const auto& a, const auto& b) {
        return key(a) < key(b);
      });
  return ranking;
}

}  // namespace

std::vector<TrialRecord> read_trials(const store::Store& store) {
  std::vector<TrialRecord> records;
  for (store::Trial& trial : store.trials()) {
    auto curve = store.curve(trial.id);
    records.push_back({std::move(trial), std::move(curve)});
  }
  return records;
}

std::vector<scaling::Run> to_runs(const std::vector<TrialRecord>& trials) {
  std::vector<scaling::Run> runs;
  for (const TrialRecord& record : trials) {
    scaling::Run run;
    run.structure = record.trial.structure;
    run.name = record.trial.id;
    run.model = record.trial.model;
    run.learning_rate = record.trial.learning_rate;
    for (const store::CurvePoint& point : record.curve) {
      run.points.push_back(
          {point.flops,
           point.val_loss,
           point.seconds,
           static_cast<double>(point.tokens)});
    }
    if (!run.points.empty()) {
      runs.push_back(std::move(run));
    }
  }
  return runs;
}

Summary summarise(const store::Store& store, const SummaryOptions& options) {
  Summary summary;
  summary.baseline = options.baseline;
  summary.bootstrap = options.bootstrap;
  summary.seed = options.seed;
  summary.metadata = store.metadata();
  summary.trials = read_trials(store);
  const auto runs = scaling::best_learning_rates(to_runs(summary.trials));
  scaling::AnalysisOptions analysis;
  analysis.baseline = options.baseline;
  analysis.bootstrap = options.bootstrap;
  analysis.seed = options.seed;
  summary.compute = scaling::analyse(runs, analysis);
  analysis.metric = scaling::Metric::kSeconds;
  summary.wall_clock = scaling::analyse(runs, analysis);
  summary.ranking = rank(summary);
  return summary;
}

}  // namespace einforge::report
