#include "einforge/kernels/cpu/moe_rows.h"

#include "einforge/kernels/cpu/dot.h"

namespace einforge::kernels::cpu {

void moe_combine(
    const float* rows,
    const float* gates,
    std::int64_t tokens,
    std::int64_t active,
    std::int64_t features,
    float* y) {
  for (std::int64_t t = 0; t < tokens; ++t) {
    float* to = y + t * features;
    for (std::int64_t j = 0; j < active; ++j) {
      const float* row = rows + (t * active + j) * features;
      const float gate = gates[t * active + j];
      for (std::int64_t c = 0; c < features; ++c) {
        to[c] = j == 0 ? gate * row[c] : to[c] + gate * row[c];
      }
    }
  }
}

void moe_gate_gradient(
    const float* rows,
    const float* x,
    std::int64_t tokens,
    std::int64_t active,
    std::int64_t features,
    float* grad) {
  for (std::int64_t pair = 0; pair < tokens * active; ++pair) {
    grad[pair] = dot<float>(
        rows + pair * features, x + pair / active * features, features);
  }
}

}  // namespace einforge::kernels::cpu
