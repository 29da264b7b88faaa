#pragma once

#include <cstdint>

// A core whose root mean square is capped (ops/rms_cap.h), on the CPU, float32.
// All is computed in float64, in which squares of float32 neither overflow nor
// underflow. The caller brings threads: calls are for a part of the elements.
namespace einforge::kernels::cpu {

// Elements whose sums are added up together, so that sums depend on the
// elements alone.
inline constexpr std::int64_t kRmsCapPart = std::int64_t{1} << 14;

// y[i] = scale x[i]
void scaled(const float* x, double scale, float* y, std::int64_t count);

// y[i] = scale (grad[i] - along core[i])
void rms_cap_gradient(
    const float* grad,
    const float* core,
    double scale,
    double along,
    float* y,
    std::int64_t count);

}  // namespace einforge::kernels::cpu
