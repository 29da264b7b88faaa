#include "einforge/kernels/cpu/rms_cap.h"

#include <array>

namespace einforge::kernels::cpu {

double dot(const float* a, const float* b, std::int64_t count) {
  // Sums side by side, which compilers do not make of one.
  constexpr std::int64_t kSums = 16;
  std::array<double, kSums> sums{};
  std::int64_t i = 0;
  for (; i + kSums <= count; i += kSums) {
    for (std::int64_t j = 0; j < kSums; ++j) {
      sums[static_cast<std::size_t>(j)] +=
          static_cast<double>(a[i + j]) * static_cast<double>(b[i + j]);
    }
  }
  double sum = 0;
  for (; i < count; ++i) {
    sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  }
  for (const double part : sums) {
    sum += part;
  }
  return sum;
}

void scaled(const float* x, double scale, float* y, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    y[i] = static_cast<float>(scale * static_cast<double>(x[i]));
  }
}

void rms_cap_gradient(
    const float* grad,
    const float* core,
    double scale,
    double along,
    float* y,
    std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    y[i] = static_cast<float>(
        scale *
        (static_cast<double>(grad[i]) - along * static_cast<double>(core[i])));
  }
}

}  // namespace einforge::kernels::cpu
