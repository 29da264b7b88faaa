#pragma once

#include <cstddef>
#include <vector>

#include "einforge/scaling/runs.h"

namespace einforge::scaling {

// A run in natural logarithms: log(compute, seconds or tokens), ascending, and
// log(loss).
struct Curve {
  std::vector<double> x;
  std::vector<double> y;
  // Standard error of a smoothed y; empty for a curve that was not smoothed.
  std::vector<double> error = {};

  std::size_t size() const { return x.size(); }
  double error_at(std::size_t i) const { return error.empty() ? 0 : error[i]; }
};

// Curves of fewer points do not follow a run closely enough to show where it
// touches a law (envelope.h is for those).
inline constexpr std::size_t kPointsForCurve = 8;
// Curves of fewer points are not smoothed: a spike of four points touches most
// of their third differences, which then are no measure of noise.
inline constexpr std::size_t kPointsToSmooth = 16;

// The run's usable points: finite and positive, ascending in x; of two points
// at the same x the later counts.
Curve log_curve(const Run& run, Metric metric);

// Standard deviation of single evaluations about a smooth curve, from third
// differences. Spikes, jumps and kinks that touch less than three quarters of
// them do not change it. 0 for curves of fewer than kPointsToSmooth points.
double evaluation_noise(const Curve& curve);

// Without single evaluations far below both neighbours, after which the loss
// goes back to where it was: no run does that, an evaluation can. They are set
// to what four neighbours say.
Curve without_dips(const Curve& curve);

// Takes the noise of single evaluations out of a curve, where there is nothing
// else: local quadratic regression on windows of 1 (the measured value), 5, 9,
// 17 and 33 points, each point with the widest window whose value agrees,
// within the noise, with those of all narrower ones. So a value moves by a few
// standard deviations of the noise at most, and next to a spike, a jump, a
// restart or a kink it is the one that was measured. Never below the lowest
// loss measured in its window. Without this the frontier, which takes minima,
// would follow the lowest evaluations.
Curve smooth(const Curve& curve);

// Of evenly spread points (in x) at most `points`, with the first, the last and
// the lowest of each share of the range.
Curve thin(const Curve& curve, std::size_t points);

// d y / d x of the rest of the run from log compute `from` on, or from two
// thirds of its compute on if that is earlier: the median slope between pairs
// of points, which spikes do not change. NaN for curves of fewer than three.
double slope_from(const Curve& curve, double from);

// slope_from at its end.
double end_slope(const Curve& curve);

}  // namespace einforge::scaling
