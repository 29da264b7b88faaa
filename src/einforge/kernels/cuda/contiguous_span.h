#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

// Whether what kernels move by elements can be moved by vectors of 16 bytes.
namespace einforge::kernels::cuda {

struct Extent {
  int64_t size = 1;
  int64_t stride = 0;
};

// Whether the elements of these indices lie side by side, in any order.
[[nodiscard]] inline bool is_contiguous_span(std::array<Extent, 3> indices) {
  std::ranges::sort(indices, {}, &Extent::stride);
  int64_t size = 1;
  for (const Extent& index : indices) {
    if (index.size != 1 && index.stride != size) {
      return false;
    }
    size *= index.size;
  }
  return true;
}

// Whether every vector of eight elements of two bytes that begins at multiples
// of these strides from `pointer` is aligned.
[[nodiscard]] inline bool are_aligned(
    const void* pointer, const std::array<Extent, 2>& indices) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0 &&
         std::ranges::all_of(indices, [](const Extent& index) {
           return index.size == 1 || index.stride % 8 == 0;
         });
}

}  // namespace einforge::kernels::cuda
