#include "einforge/report/expectations.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <unordered_map>

namespace einforge::report {
namespace {

// From 1; equal values share the mean of their ranks.
std::vector<double> ranks(const std::vector<double>& values) {
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::sort(order, {}, [&](std::size_t i) { return values[i]; });
  std::vector<double> result(values.size());
  for (std::size_t from = 0; from < order.size();) {
    std::size_t to = from;
    while (to < order.size() && values[order[to]] == values[order[from]]) {
      ++to;
    }
    for (std::size_t i = from; i < to; ++i) {
      result[order[i]] = 0.5 * static_cast<double>(from + to + 1);
    }
    from = to;
  }
  return result;
}

// Spearman's; none of fewer than three or of equal values.
std::optional<double> rank_correlation(
    const std::vector<double>& a, const std::vector<double>& b) {
  constexpr std::size_t kFewest = 3;
  if (a.size() < kFewest) {
    return std::nullopt;
  }
  const std::vector<double> x = ranks(a);
  const std::vector<double> y = ranks(b);
  const double mean = 0.5 * static_cast<double>(x.size() + 1);
  double xx = 0;
  double yy = 0;
  double xy = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    xx += (x[i] - mean) * (x[i] - mean);
    yy += (y[i] - mean) * (y[i] - mean);
    xy += (x[i] - mean) * (y[i] - mean);
  }
  return xx > 0 && yy > 0 ? std::optional(xy / std::sqrt(xx * yy))
                          : std::nullopt;
}

}  // namespace

Expectations expectations_of(
    const std::vector<TrialRecord>& trials, const base::Json& metadata) {
  Expectations result;
  const auto found = metadata.find("predictions");
  if (found == metadata.end() || !found->is_array()) {
    return result;
  }
  std::unordered_map<std::string, std::size_t> places;
  for (std::size_t i = 0; i < trials.size(); ++i) {
    places.emplace(trials[i].trial.id, i);
  }
  double squares = 0;
  double within = 0;
  std::vector<double> expected;
  std::vector<double> losses;
  for (const base::Json& line : *found) {
    // [trial, step, ln loss, deviation]
    if (!line.is_array() || line.size() != 4 || !line[0].is_string() ||
        !line[1].is_number_integer() || !line[2].is_number() ||
        !line[3].is_number()) {
      continue;
    }
    const auto place = places.find(line[0].get<std::string>());
    if (place == places.end() || !counts(trials[place->second].trial)) {
      continue;
    }
    const std::int64_t step = line[1].get<std::int64_t>();
    for (const store::CurvePoint& point : trials[place->second].curve) {
      if (point.step != step || !(point.val_loss > 0)) {
        continue;
      }
      const double mean = line[2].get<double>();
      const double deviation = line[3].get<double>();
      const double off = std::log(point.val_loss) - mean;
      constexpr double kInterval = 1.96;
      squares += off * off;
      within += std::abs(off) <= kInterval * deviation ? 1 : 0;
      result.points.push_back(
          {place->second, step, std::exp(mean), deviation, point.val_loss});
      expected.push_back(mean);
      losses.push_back(point.val_loss);
      break;
    }
  }
  if (!result.points.empty()) {
    const auto count = static_cast<double>(result.points.size());
    result.rmse = std::sqrt(squares / count);
    result.within = within / count;
    result.rank_correlation = rank_correlation(expected, losses);
  }
  return result;
}

}  // namespace einforge::report
