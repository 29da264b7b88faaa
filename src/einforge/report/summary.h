#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "einforge/base/json.h"
#include "einforge/scaling/analysis.h"
#include "einforge/store/store.h"

namespace einforge::report {

struct TrialRecord {
  store::Trial trial;
  std::vector<store::CurvePoint> curve;
};

// One row of the ranking.
struct RankedStructure {
  std::string structure;
  int trials = 0;
  std::string status;  // "9 done, 1 diverged"
  // Of the trial with the lowest loss; absent where none has a loss.
  std::optional<TrialRecord> best;
  // In FLOPs and in seconds; absent where the structure has no usable curve.
  std::optional<scaling::StructureAnalysis> compute;
  std::optional<scaling::StructureAnalysis> wall_clock;
};

// All that a report says, in numbers.
struct Summary {
  std::string baseline;
  // Behind the intervals: replicates and their seed.
  int bootstrap = 0;
  std::uint64_t seed = 0;
  base::Json metadata;
  std::vector<TrialRecord> trials;
  // Best first; structures without a compute multiplier last.
  std::vector<RankedStructure> ranking;
  scaling::Analysis compute;
  scaling::Analysis wall_clock;
};

struct SummaryOptions {
  std::string baseline = "dense";
  int bootstrap = 1000;
  std::uint64_t seed = 0;
};

Summary summarise(
    const store::Store& store, const SummaryOptions& options = {});

// The trials that have a curve as runs for scaling/; the loss is the
// validation loss.
std::vector<scaling::Run> to_runs(const std::vector<TrialRecord>& trials);

std::vector<TrialRecord> read_trials(const store::Store& store);

}  // namespace einforge::report
