#pragma once

#include <optional>
#include <vector>

namespace einforge::scaling {

struct Interval {
  double low = 0;
  double high = 0;
};

// The middle 95% of `values`, and how far their median lies above the estimate.
struct Spread {
  Interval ci95;
  double bias = 0;
};

// Absent when more than a tenth of the replicates gave no value.
std::optional<Spread> spread(
    std::vector<double> values, double estimate, int replicates);

// Of `estimate`, from the estimates that leave out a group each: Student's t
// times the jackknife's standard error.
Interval jackknife_interval(
    double estimate, const std::vector<double>& without_group);

}  // namespace einforge::scaling
