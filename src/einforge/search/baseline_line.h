#pragma once

#include <vector>

namespace einforge::search {

// Where a baseline's training was, on any of its curves.
struct ComputeLoss {
  double log_compute = 0;
  double log_loss = 0;
};

// The least loss that the baseline reaches, as a power law of compute:
// ln loss = offset - slope ln compute.
struct BaselineLine {
  double offset = 0;
  double slope = 0.1;

  // ln of the compute multiplier: what the baseline needs for that loss, over
  // the compute given.
  double log_multiplier(double log_compute, double log_loss) const {
    return (offset - log_loss) / slope - log_compute;
  }
};

// The line through the points that no other beats in both compute and loss, by
// least squares. The slope is from 0.02 to 1, and 0.1 where the points span too
// little compute to tell.
BaselineLine fit_baseline(std::vector<ComputeLoss> points);

}  // namespace einforge::search
