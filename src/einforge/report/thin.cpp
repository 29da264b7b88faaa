#include "einforge/report/thin.h"

#include <algorithm>
#include <numeric>

namespace einforge::report {

std::vector<std::size_t> thin(
    std::span<const double> x, std::span<const double> y, std::size_t most) {
  std::vector<std::size_t> kept;
  if (x.size() <= most) {
    kept.resize(x.size());
    std::iota(kept.begin(), kept.end(), std::size_t{0});
    return kept;
  }
  const std::size_t shares = (most - 2) / 2;
  const double width = x.back() - x.front();
  const auto share_of = [&](std::size_t i) {
    // Points at one x are shared out by their order.
    const double at =
        width > 0 ? (x[i] - x.front()) / width
                  : static_cast<double>(i) / static_cast<double>(x.size());
    return std::min(
        static_cast<std::size_t>(at * static_cast<double>(shares)), shares - 1);
  };
  for (std::size_t begin = 0; begin < x.size();) {
    std::size_t lowest = begin;
    std::size_t highest = begin;
    std::size_t end = begin;
    for (; end < x.size() && share_of(end) == share_of(begin); ++end) {
      lowest = y[end] < y[lowest] ? end : lowest;
      highest = y[end] > y[highest] ? end : highest;
    }
    kept.push_back(std::min(lowest, highest));
    kept.push_back(std::max(lowest, highest));
    begin = end;
  }
  kept.push_back(0);
  kept.push_back(x.size() - 1);
  std::sort(kept.begin(), kept.end());
  kept.erase(std::unique(kept.begin(), kept.end()), kept.end());
  return kept;
}

}  // namespace einforge::report
