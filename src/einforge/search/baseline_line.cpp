#include "einforge/search/baseline_line.h"

#include <algorithm>

namespace einforge::search {

BaselineLine fit_baseline(std::vector<ComputeLoss> points) {
  BaselineLine result;
  if (points.empty()) {
    return result;
  }
  std::sort(
      points.begin(),
      points.end(),
      [](const ComputeLoss& a, const ComputeLoss& b) {
        return a.log_compute != b.log_compute ? a.log_compute < b.log_compute
                                              : a.log_loss < b.log_loss;
      });
  std::vector<ComputeLoss> front;
  for (const ComputeLoss& point : points) {
    if (front.empty() || point.log_loss < front.back().log_loss) {
      front.push_back(point);
    }
  }
  const auto count = static_cast<double>(front.size());
  ComputeLoss mean;
  for (const ComputeLoss& point : front) {
    mean.log_compute += point.log_compute / count;
    mean.log_loss += point.log_loss / count;
  }
  double square = 0;
  double product = 0;
  for (const ComputeLoss& point : front) {
    const double off = point.log_compute - mean.log_compute;
    square += off * off;
    product += off * (point.log_loss - mean.log_loss);
  }
  constexpr double kShort = 0.01;  // a range of about 0.1 in ln compute
  if (square > kShort) {
    result.slope = std::clamp(-product / square, 0.02, 1.0);
  }
  result.offset = mean.log_loss + result.slope * mean.log_compute;
  return result;
}

}  // namespace einforge::search
