#pragma once

#include <optional>
#include <span>
#include <vector>

#include "einforge/scaling/curve.h"
#include "einforge/scaling/frontier.h"
#include "einforge/scaling/power_law.h"

namespace einforge::scaling {

// The runs of one structure, ready to be fitted again and again with their
// losses shifted.
struct Family {
  explicit Family(std::vector<Curve> measured);

  std::vector<Curve> measured;
  std::vector<Curve> curves;   // smoothed, and thinned for fits
  std::vector<double> lowest;  // log loss of each of them
  PointCloud cloud;            // of all smoothed points
};

// Where a run's point of the smallest gap to its law lies.
enum class Nearest { kInside, kFirst, kLast };

// The law to which all runs are tangent. A compute-optimal law is the envelope
// of the runs: each touches it where its size is the best one, from above. So
// each run is laid on the law at the point of its smallest gap, every run with
// equal weight, and the law goes through the middle of what is left over, the
// run-to-run noise. Fitting the frontier's points themselves would keep the
// lowest runs and drop the others: too low a law and too narrow an interval.
//
// Not used: runs that end (or begin) before they touch, unless they lie below
// the law or fewer than four runs touch; then those that come near enough
// count, as do all points of tables that hold one point a run. Nor runs that
// stay above the law by more than noise explains (a poor learning rate).
struct TangentFit {
  // Absent when fewer than three runs can be used (a law with a floor that
  // others share goes through two exactly, whatever they are) or when they do
  // not fall together.
  std::optional<PowerLaw> law;
  // False where rounds go on moving the law by a tenth of itself: of runs that
  // end early, each law has others touch it.
  bool settled = true;
  std::vector<double> residuals;  // log loss - law, a run; 0 when not used
  std::vector<bool> used;         // a run
  std::vector<Nearest> nearest;   // a run, with a law
  std::size_t used_count = 0;
};

struct TangentOptions {
  // All families share one floor, the data's irreducible loss. For families of
  // too few runs to know their own.
  bool shared_floor = false;
  int rounds = 20;
  // Families to leave alone (true), as those of runs of few evaluations.
  std::span<const char> skip;
  // Start from these laws (one a family), for a bootstrap.
  std::span<const TangentFit> start;
};

// `shifts[family][run]` is added to log losses.
std::vector<TangentFit> fit_tangents(
    std::span<const Family> families,
    std::span<const std::vector<double>> shifts,
    const TangentOptions& options = {});

// Runs left over when the parameters are paid for; 0 or more.
int degrees_of_freedom(std::span<const TangentFit> fits, bool shared_floor);

}  // namespace einforge::scaling
