#pragma once

#include "einforge/kernels/cuda/btt_sizes.h"
#include "einforge/ops/contraction.h"

namespace einforge::ops::btt {

// Both stages contract one index each.
inline bool is_btt(const Contraction& c) {
  return c.second_in == 1 && c.first_out == 1;
}

inline kernels::cuda::BttSizes sizes_of(const Contraction& c) {
  return {
      .alpha = static_cast<int>(c.first_in),
      .gamma = static_cast<int>(c.gamma),
      .epsilon = static_cast<int>(c.second_out),
      .phi = static_cast<int>(c.phi),
      .rho = static_cast<int>(c.rho)};
}

}  // namespace einforge::ops::btt
