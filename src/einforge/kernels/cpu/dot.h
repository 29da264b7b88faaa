#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace einforge::kernels::cpu {

// sum of a[i] b[i], each in the type of the sum, in sums side by side, which
// compilers do not make of one.
template <typename Sum>
Sum dot(const float* a, const float* b, std::int64_t count) {
  constexpr std::int64_t kSums = 16;
  std::array<Sum, kSums> sums{};
  std::int64_t i = 0;
  for (; i + kSums <= count; i += kSums) {
    for (std::int64_t j = 0; j < kSums; ++j) {
      sums[static_cast<std::size_t>(j)] +=
          static_cast<Sum>(a[i + j]) * static_cast<Sum>(b[i + j]);
    }
  }
  Sum sum = 0;
  for (; i < count; ++i) {
    sum += static_cast<Sum>(a[i]) * static_cast<Sum>(b[i]);
  }
  for (const Sum part : sums) {
    sum += part;
  }
  return sum;
}

}  // namespace einforge::kernels::cpu
