#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "einforge/scaling/power_law.h"
#include "einforge/scaling/runs.h"

namespace einforge::scaling {

struct Interval {
  double low = 0;
  double high = 0;
};

struct AnalysisOptions {
  Metric metric = Metric::kFlops;
  std::string baseline = "dense";
  int bootstrap = 1000;  // replicates; 0: no intervals
  std::uint64_t seed = 0;
};

struct FrontierPoint {
  double compute = 0;
  double loss = 0;
  std::string run;
};

// The fitted law at one compute, with the 95% interval of its value.
struct LawPoint {
  double compute = 0;
  double loss = 0;
  std::optional<Interval> ci95;
};

struct StructureAnalysis {
  std::string structure;
  std::size_t runs = 0;  // with usable points
  double best_loss = 0;
  std::vector<FrontierPoint> frontier;

  // loss = floor + scale * compute^-exponent; absent with a reason.
  std::optional<PowerLaw> law;
  std::size_t law_runs = 0;  // runs that the law rests on
  std::optional<Interval> floor_ci95;
  std::optional<Interval> exponent_ci95;
  std::vector<LawPoint> law_points;
  std::string law_note;

  // baseline's compute / this structure's, at equal loss: above 1 is better
  // than the baseline. Geometric mean between the frontiers over the losses
  // from `loss_from` down to `loss_to`. Absent with a reason; the note may also
  // qualify one that is there.
  std::optional<double> multiplier;
  std::optional<Interval> multiplier_ci95;
  double loss_from = 0;
  double loss_to = 0;
  std::string multiplier_note;
};

struct Analysis {
  Metric metric = Metric::kFlops;
  std::string baseline;
  // Best first: by multiplier, then structures without one by best loss.
  std::vector<StructureAnalysis> structures;
  // Standard deviation of a run's log loss from luck alone (seed, data order),
  // pooled over structures; absent when there are too few runs to know.
  std::optional<double> noise;
  int degrees_of_freedom = 0;
  bool shared_floor = false;
  // How the intervals were made: "run noise", "resampled runs" or "none".
  std::string interval_method;
};

// Frontier, law and multiplier of every structure in `runs`.
//
// Intervals are from a bootstrap over runs. Where the laws leave degrees of
// freedom, each replicate shifts every run's log loss by normal noise of the
// residuals' size, itself drawn from its chi-squared distribution, and repeats
// the whole procedure, frontier, fit and multiplier. Where they don't, runs
// are drawn with replacement.
// docs/scaling.md says why, and how often the intervals cover the truth.
Analysis analyse(
    std::span<const Run> runs, const AnalysisOptions& options = {});

}  // namespace einforge::scaling
