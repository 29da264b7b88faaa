#pragma once

#include <vector>

#include "einforge/scaling/runs.h"

namespace einforge::scaling {

// A run in natural logarithms: log(compute, seconds or tokens), ascending, and
// log(loss).
struct Curve {
  std::vector<double> x;
  std::vector<double> y;
  // Of a smoothed y; 0 for a curve that was not smoothed.
  double standard_error = 0;
};

// The run's usable points: finite and positive, ascending in x; of two points
// at the same x the later counts.
Curve log_curve(const Run& run, Metric metric);

// Takes the noise of single evaluations out of a curve by local quadratic
// regression, the width of its window chosen by leave-one-out error. Without
// this the frontier, which takes minima, would follow the lucky evaluations.
// Curves of fewer than 8 points come back as they are.
Curve smooth(const Curve& curve);

}  // namespace einforge::scaling
