#pragma once

#include <cstdint>

#include "einforge/kernels/cuda/vec8.cuh"

// The pass over the rows of a token that the sum of a mixture and the gradient
// of its router share.
namespace einforge::kernels::cuda {

// A warp has a token. Calls put(v, sum_j gates[j] rows[j][v], rounded) for each
// vector v of eight, by the lane that has it, and, kDots, leaves the products
// rows[j] . other with all lanes. `active` of the kActive are there.
//
// @param rows (active, vectors)
// @param other (vectors)
template <int kActive, int kAtOnce, bool kDots, typename Put>
__device__ __forceinline__ void sum_rows(
    const uint4* rows,
    const uint4* other,
    int vectors,
    int active,
    const float (&gates)[kActive],
    float (&dots)[kActive],
    const Put& put) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int j = 0; j < kActive; ++j) {
    dots[j] = 0.0F;
  }
  // All that is loaded at once comes before what is stored, which the compiler
  // takes to be the same memory.
#pragma unroll 1
  for (int base = lane; base < vectors; base += 32 * kAtOnce) {
    uint4 row[kAtOnce][kActive];
    [[maybe_unused]] uint4 factor[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int v = base + 32 * i;
      if (v < vectors) {
#pragma unroll
        for (int j = 0; j < kActive; ++j) {
          if (j < active) {
            row[i][j] = __ldcs(rows + j * vectors + v);
          }
        }
        if constexpr (kDots) {
          factor[i] = __ldg(other + v);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int v = base + 32 * i;
      if (v < vectors) {
        [[maybe_unused]] Vec8 factors;
        if constexpr (kDots) {
          factors = Vec8::load(factor[i]);
        }
        Vec8 sum{};
#pragma unroll
        for (int j = 0; j < kActive; ++j) {
          if (j < active) {
            const Vec8 values = Vec8::load(row[i][j]);
            sum.add_scaled(gates[j], values);
            if constexpr (kDots) {
#pragma unroll
              for (int c = 0; c < 8; ++c) {
                dots[j] += factors.of[c] * values.of[c];
              }
            }
          }
        }
        put(v, sum.rounded());
      }
    }
  }
  if constexpr (kDots) {
#pragma unroll
    for (int j = 0; j < kActive; ++j) {
#pragma unroll
      for (int hop = 16; hop > 0; hop /= 2) {
        dots[j] += __shfl_xor_sync(0xFFFFFFFFU, dots[j], hop);
      }
    }
  }
}

}  // namespace einforge::kernels::cuda
