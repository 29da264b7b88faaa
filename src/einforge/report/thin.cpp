#include "einforge/report/thin.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <queue>

namespace einforge::report {
namespace {

// The points strictly between `first` and `last` and the worst of them.
struct Segment {
  double distance = -1;
  std::size_t first = 0;
  std::size_t last = 0;
  std::size_t worst = 0;

  bool operator<(const Segment& other) const {
    // Of equal ones the first, so that the result does not depend on the heap.
    return distance != other.distance ? distance < other.distance
                                      : first > other.first;
  }
};

Segment measure(
    std::span<const double> x,
    std::span<const double> y,
    std::size_t first,
    std::size_t last) {
  Segment segment{-1, first, last, first};
  const double width = x[last] - x[first];
  for (std::size_t i = first + 1; i < last; ++i) {
    const double share = width > 0 ? (x[i] - x[first]) / width : 0;
    const double distance =
        std::abs(y[i] - std::lerp(y[first], y[last], share));
    if (distance > segment.distance) {
      segment.distance = distance;
      segment.worst = i;
    }
  }
  return segment;
}

}  // namespace

std::vector<std::size_t> thin(
    std::span<const double> x, std::span<const double> y, std::size_t most) {
  std::vector<std::size_t> kept;
  if (x.size() <= most) {
    kept.resize(x.size());
    std::iota(kept.begin(), kept.end(), std::size_t{0});
    return kept;
  }
  kept = {0, x.size() - 1};
  std::priority_queue<Segment> segments;
  segments.push(measure(x, y, 0, x.size() - 1));
  while (kept.size() < most && segments.top().distance >= 0) {
    const Segment segment = segments.top();
    segments.pop();
    kept.push_back(segment.worst);
    segments.push(measure(x, y, segment.first, segment.worst));
    segments.push(measure(x, y, segment.worst, segment.last));
  }
  std::sort(kept.begin(), kept.end());
  return kept;
}

}  // namespace einforge::report
