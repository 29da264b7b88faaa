#pragma once

#include <cstdint>

namespace einforge::kernels::cuda {

[[nodiscard]] inline unsigned ceil_div(int64_t items, int64_t each) {
  return static_cast<unsigned>((items + each - 1) / each);
}

}  // namespace einforge::kernels::cuda
