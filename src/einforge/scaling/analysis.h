#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "einforge/scaling/intervals.h"
#include "einforge/scaling/power_law.h"
#include "einforge/scaling/runs.h"

namespace einforge::scaling {

struct AnalysisOptions {
  Metric metric = Metric::kFlops;
  std::string baseline = "dense";
  // Replicates; 0: no intervals. Of more than 1,000 runs fewer, at least 200.
  int bootstrap = 1000;
  std::uint64_t seed = 0;
  int threads = 0;  // 0: one per core; the result does not depend on it
  // Called from the calling thread, with replicates done and wanted.
  std::function<void(int done, int total)> progress;
};

struct FrontierPoint {
  double compute = 0;
  double loss = 0;
  std::string run;
  // The segment from here to the next point is steeper or flatter than the runs
  // at both of its ends: a chord between runs, on which nothing was trained.
  bool chord = false;
};

// Where a run lies nearest to its structure's law.
enum class Touch {
  kTouches,      // in its interior: it shows where its size is the best one
  kEndsBefore,   // at its end: trained too little to show it
  kBeginsAfter,  // at its first evaluation
  kAbove,        // further above the law than run-to-run noise explains
  kUnknown,      // one evaluation, or its structure has no law
};

// "touches", "ends before", "begins after", "above", "unknown".
std::string to_string(Touch touch);

// One run, as the report lists it.
struct RunAnalysis {
  std::string run;
  std::string model;
  std::size_t evaluations = 0;
  double compute = 0;                          // spent by the whole run
  double best_loss = 0;                        // lowest measured
  std::optional<double> tokens_per_parameter;  // at its end
  // d log loss / d log compute over the last evaluations; negative while the
  // loss still falls. Absent for runs of one evaluation.
  std::optional<double> end_slope;
  Touch touch = Touch::kUnknown;
};

// The fitted law at one compute, with the 95% interval of its value.
struct LawPoint {
  double compute = 0;
  double loss = 0;
  std::optional<Interval> ci95;
};

struct StructureAnalysis {
  std::string structure;
  std::size_t runs = 0;           // with usable points
  std::size_t diverged_runs = 0;  // left out of everything else
  double best_loss = 0;           // lowest measured
  std::vector<RunAnalysis> run_analyses;
  std::vector<FrontierPoint> frontier;

  // loss = floor + scale * compute^-exponent; absent with a reason.
  std::optional<PowerLaw> law;
  std::size_t law_runs = 0;  // runs that the law rests on
  std::optional<Interval> floor_ci95;
  std::optional<Interval> exponent_ci95;
  // Median of the replicates less the estimate: what the method itself adds.
  std::optional<double> floor_bias;
  std::optional<double> exponent_bias;
  std::vector<LawPoint> law_points;
  std::string law_note;

  // baseline's compute / this structure's, at equal loss: above 1 is better
  // than the baseline. Geometric mean between the frontiers over the losses
  // from `loss_from` down to `loss_to`. Absent with a reason; the note may also
  // qualify one that is there.
  std::optional<double> multiplier;
  std::optional<Interval> multiplier_ci95;
  std::optional<double> multiplier_bias;  // median of replicates / estimate
  double loss_from = 0;
  double loss_to = 0;
  std::string multiplier_note;
  // Whether the multiplier may be coloured and stand in a headline: runs of it
  // and of the baseline touch within the losses compared, no part of either
  // frontier there is a chord, and the losses are not early ones. Otherwise
  // the note says what is missing. Does not look at the interval.
  bool multiplier_shown = false;
  // 1 is the best of the structures ranked; absent for those not ranked.
  std::optional<int> rank;
};

struct Analysis {
  Metric metric = Metric::kFlops;
  std::string baseline;
  // Ranked structures first, then those with a multiplier, then by best loss.
  std::vector<StructureAnalysis> structures;
  // Log-mean multipliers over this one range of losses rank the structures;
  // absent, with a reason, when they have no loss in common.
  std::optional<double> rank_from;
  std::optional<double> rank_to;
  std::string rank_note;
  // The structure that a report may name on top: ranked first, shown, with an
  // interval above 1. Absent with a reason.
  std::optional<std::string> headline;
  std::string headline_note;
  // Standard deviation of log loss between runs that differ in seed or data,
  // pooled over structures; absent where there are too few runs.
  std::optional<double> noise;
  int degrees_of_freedom = 0;
  bool shared_floor = false;
  int replicates = 0;  // behind the intervals
  // How the intervals were made: "run noise", "resampled runs" or "none".
  std::string interval_method;
};

// Frontier, law and multiplier of every structure in `runs`, but for runs that
// diverged.
//
// Intervals are from a bootstrap over runs. Where the laws leave degrees of
// freedom, each replicate shifts every run's log loss by normal noise of the
// residuals' size, itself drawn from its chi-squared distribution, and repeats
// the whole procedure, frontier, fit and multiplier. Where they don't, runs
// are drawn with replacement. Laws of runs of few evaluations have theirs from
// a jackknife over groups of runs. docs/scaling.md says why, and how often the
// intervals cover the truth.
Analysis analyse(
    std::span<const Run> runs, const AnalysisOptions& options = {});

}  // namespace einforge::scaling
