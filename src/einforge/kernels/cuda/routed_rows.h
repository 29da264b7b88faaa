#pragma once

#include <cstdint>

namespace einforge::kernels::cuda {

// Pairs of a token and one of its `active` experts, pair = token active + slot,
// in the order of their experts: those of expert e are order[offsets[e]] to
// order[offsets[e + 1] - 1]. Device memory.
struct RoutedRows {
  const int32_t* offsets = nullptr;  // (experts + 1)
  const int32_t* order = nullptr;    // (pairs)
  int experts = 1;
  int active = 1;
  int pairs = 0;
};

}  // namespace einforge::kernels::cuda
