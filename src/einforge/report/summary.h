#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "einforge/base/json.h"
#include "einforge/scaling/analysis.h"
#include "einforge/scaling/importance.h"
#include "einforge/store/store.h"

namespace einforge::report {

struct TrialRecord {
  // `structure` under its display name (style.h).
  store::Trial trial;
  // Structure and model as the store has them; costs are by these.
  std::string kind;
  std::vector<store::CurvePoint> curve;
  // Of the last point of the curve; 0 without one.
  double tokens = 0;
  std::optional<double> tokens_per_parameter;
  // d log loss / d log FLOPs at the end.
  std::optional<double> end_slope;
  // Of the runs that the analysis in FLOPs keeps.
  std::optional<scaling::Touch> touch;
};

// Whether the trial's losses are results: not those of a diverged or failed
// one, whatever it had reached before.
bool counts(const store::Trial& trial);

// One row of the ranking.
struct RankedStructure {
  std::string structure;
  int trials = 0;
  std::string status;  // "9 done, 1 diverged"
  // Index in Summary::trials of the trial with the lowest final loss of those
  // that count; absent where none has one.
  std::optional<std::size_t> best;
  // In FLOPs and in seconds; absent where the structure has no usable curve.
  std::optional<scaling::StructureAnalysis> compute;
  std::optional<scaling::StructureAnalysis> wall_clock;
};

// The lowest loss that a structure had measured when a run of it had spent the
// budget.
struct BestAtBudget {
  std::string structure;
  std::size_t trial = 0;  // index in Summary::trials
  double cost = 0;        // spent at that evaluation
  double loss = 0;
  double tokens = 0;
};

struct BudgetTable {
  scaling::Metric metric = scaling::Metric::kFlops;
  // The most that runs of every structure reached; 0 without runs.
  double budget = 0;
  std::vector<BestAtBudget> rows;  // best first
};

// What trials differ in: structures of kinds of layers, sizes, learning rate.
struct Space {
  struct Axis {
    std::string name;
    bool ordered = false;
    std::vector<std::string> levels;
  };
  std::vector<Axis> axes;
  struct Point {
    std::size_t trial = 0;    // index in Summary::trials
    std::vector<int> levels;  // beside the axes
  };
  std::vector<Point> points;
};

// Beside the axes of the space.
struct SpaceImportances {
  std::size_t trials = 0;
  std::vector<scaling::Importance> axes;
  scaling::Importance together;
};

// What the scheduler expected of a trial when it chose it, and what came.
struct Expectation {
  std::size_t trial = 0;  // index in Summary::trials
  std::int64_t step = 0;
  double expected = 0;   // loss
  double deviation = 0;  // of its logarithm
  double loss = 0;
};
struct Expectations {
  std::vector<Expectation> points;
  double rmse = 0;                         // of ln loss
  double within = 0;                       // share in the 95% interval
  std::optional<double> rank_correlation;  // Spearman's
};

// The trials that no other beats in loss and all costs of the objectives.
struct ParetoSet {
  std::vector<std::string> objectives;
  // Beside Summary::trials and the objectives; NaN where unknown. FLOPs and
  // seconds are of a token of training.
  std::vector<std::vector<double>> costs;
  std::vector<std::size_t> trials;  // by falling loss
};

// All that a report says, in numbers.
struct Summary {
  std::string baseline;
  // Behind the intervals: replicates and their seed.
  int bootstrap = 0;
  std::uint64_t seed = 0;
  base::Json metadata;
  std::vector<TrialRecord> trials;
  // In the order of `compute`; structures without a curve last.
  std::vector<RankedStructure> ranking;
  scaling::Analysis compute;
  scaling::Analysis wall_clock;
  BudgetTable best_by_compute;
  BudgetTable best_by_seconds;
  ParetoSet pareto;
  Space space;
  std::optional<SpaceImportances> importances;
  Expectations expectations;
  // What to know before quoting anything, a sentence each.
  std::vector<std::string> notices;
};

struct SummaryOptions {
  std::string baseline = "dense";
  int bootstrap = 1000;
  std::uint64_t seed = 0;
  // Called now and then with the share of the work that is done, 0 to 1.
  std::function<void(double share)> progress;
};

Summary summarise(
    const store::Store& store, const SummaryOptions& options = {});

Summary summarise(
    std::vector<TrialRecord> trials,
    base::Json metadata,
    const SummaryOptions& options = {});

// The trials that have a curve as runs for scaling/; the loss is the
// validation loss.
std::vector<scaling::Run> to_runs(const std::vector<TrialRecord>& trials);

// In the order added.
std::vector<TrialRecord> read_trials(const store::Store& store);

// A trial under its display name, with what follows from its curve. One that
// ended as done with a loss far above its first is diverged: trainers of before
// did not notice.
TrialRecord make_record(
    store::Trial trial, std::vector<store::CurvePoint> curve);

}  // namespace einforge::report
