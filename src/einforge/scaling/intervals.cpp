#include "einforge/scaling/intervals.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "einforge/scaling/student.h"

namespace einforge::scaling {
namespace {

double quantile(const std::vector<double>& sorted, double share) {
  const double at = share * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<std::size_t>(at);
  const std::size_t above = std::min(below + 1, sorted.size() - 1);
  return std::lerp(
      sorted[below], sorted[above], at - static_cast<double>(below));
}

// By degrees of freedom from 1; the last stands for all beyond.
using Quantiles = std::array<double, 30>;

double in_table(const Quantiles& table, std::size_t degrees) {
  return degrees == 0 ? INFINITY : table[std::min(degrees, table.size()) - 1];
}

}  // namespace

double student(std::size_t degrees) {
  constexpr Quantiles kTable = {
      12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
      2.201,  2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
      2.080,  2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042};
  return in_table(kTable, degrees);
}

double student90(std::size_t degrees) {
  constexpr Quantiles kTable = {
      6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812,
      1.796, 1.782, 1.771, 1.761, 1.753, 1.746, 1.740, 1.734, 1.729, 1.725,
      1.721, 1.717, 1.714, 1.711, 1.708, 1.706, 1.703, 1.701, 1.699, 1.697};
  return in_table(kTable, degrees);
}

std::optional<Spread> spread(
    std::vector<double> values, double estimate, int replicates) {
  if (values.empty() || static_cast<double>(values.size()) < 0.9 * replicates) {
    return std::nullopt;
  }
  std::sort(values.begin(), values.end());
  return Spread{
      {quantile(values, 0.025), quantile(values, 0.975)},
      quantile(values, 0.5) - estimate};
}

Interval jackknife_interval(
    double estimate, const std::vector<double>& without_group) {
  const auto groups = static_cast<double>(without_group.size());
  const double mean =
      std::accumulate(without_group.begin(), without_group.end(), 0.0) / groups;
  double sum = 0;
  for (const double value : without_group) {
    sum += (value - mean) * (value - mean);
  }
  const double reach = student(without_group.size() - 1) *
                       std::sqrt(sum * (groups - 1) / groups);
  return {estimate - reach, estimate + reach};
}

}  // namespace einforge::scaling
