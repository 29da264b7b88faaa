#pragma once

#include <cstdint>

namespace einforge::kernels::cuda {

// Pairs of a token and one of its `active` experts, pair = token active + slot,
// in the order of their experts and, where there are `bins` of an expert and
// not one, of their slots: those of bin i of expert e are
// order[offsets[e bins + i]] and so on, up to the next one's. Device memory.
//
// A view of it is of each expert's bins from `first` up to `last`.
struct RoutedRows {
  const int32_t* offsets = nullptr;  // (experts bins + 1)
  const int32_t* order = nullptr;    // (pairs)
  int experts = 1;
  int active = 1;
  int pairs = 0;
  int bins = 1;
  int first = 0;
  int last = 1;
};

}  // namespace einforge::kernels::cuda
