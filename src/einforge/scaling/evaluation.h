#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "einforge/scaling/envelope.h"
#include "einforge/scaling/frontier.h"
#include "einforge/scaling/multiplier.h"
#include "einforge/scaling/runs.h"
#include "einforge/scaling/tangent_fit.h"

namespace einforge::scaling {

// Usable runs by structure, in the order in which structures first appear.
struct Grouped {
  std::vector<std::string> names;
  std::vector<std::vector<const Run*>> runs;
  std::vector<std::size_t> diverged;  // left out of runs
  std::vector<Family> families;
  std::vector<char> sparse;  // families for fit_envelope
};

Grouped group(std::span<const Run> runs, Metric metric);

using Shifts = std::vector<std::vector<double>>;

Shifts zero_shifts(std::span<const Family> families);

// What one data set, real or replicated, says about each structure.
struct Outcome {
  std::vector<Frontier> frontiers;
  std::vector<FrontierCheck> checks;
  std::vector<TangentFit> fits;
  std::vector<std::optional<Multiplier>> multipliers;
};

// Frontiers and multipliers; the laws are left empty.
Outcome compare(
    std::span<const Family> families,
    const Shifts& shifts,
    std::optional<std::size_t> baseline);

// With the laws.
Outcome evaluate(
    std::span<const Family> families,
    const Shifts& shifts,
    std::optional<std::size_t> baseline,
    const TangentOptions& options);

}  // namespace einforge::scaling
