#include "einforge/kernels/cpu/rms_cap.h"

namespace einforge::kernels::cpu {

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
