#pragma once

#include <cstdint>

namespace einforge::kernels::cuda {

// How many blocks hold `items`, `each` of them in one.
[[nodiscard]] inline unsigned blocks_of(int64_t items, int64_t each) {
  return static_cast<unsigned>((items + each - 1) / each);
}

}  // namespace einforge::kernels::cuda
