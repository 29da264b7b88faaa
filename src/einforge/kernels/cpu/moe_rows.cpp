#include "einforge/kernels/cpu/moe_rows.h"

#include <array>

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
  constexpr std::int64_t kSums = 16;  // side by side
  for (std::int64_t pair = 0; pair < tokens * active; ++pair) {
    const float* row = rows + pair * features;
    const float* token = x + pair / active * features;
    std::array<float, kSums> sums{};
    std::int64_t c = 0;
    for (; c + kSums <= features; c += kSums) {
      for (std::int64_t i = 0; i < kSums; ++i) {
        sums[static_cast<std::size_t>(i)] += row[c + i] * token[c + i];
      }
    }
    float sum = 0;
    for (; c < features; ++c) {
      sum += row[c] * token[c];
    }
    for (const float part : sums) {
      sum += part;
    }
    grad[pair] = sum;
  }
}

}  // namespace einforge::kernels::cpu
