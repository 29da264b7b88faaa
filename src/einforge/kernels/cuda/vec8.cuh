#pragma once

#include "einforge/kernels/cuda/ptx.cuh"

namespace einforge::kernels::cuda {

// A 16-byte vector of bfloat16, in float32.
struct Vec8 {
  float of[8];

  __device__ static Vec8 load(const uint4& v) {
    const uint32_t words[4] = {v.x, v.y, v.z, v.w};
    Vec8 e;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      e.of[2 * i] = __uint_as_float(words[i] << 16);
      e.of[2 * i + 1] = __uint_as_float(words[i] & 0xFFFF0000U);
    }
    return e;
  }
  __device__ void add_scaled(float factor, const Vec8& other) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      of[i] += factor * other.of[i];
    }
  }
  __device__ void add_product(const Vec8& left, const Vec8& right) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      of[i] += left.of[i] * right.of[i];
    }
  }
  __device__ uint4 rounded() const {
    return {
        ptx::round_pair(of[0], of[1]),
        ptx::round_pair(of[2], of[3]),
        ptx::round_pair(of[4], of[5]),
        ptx::round_pair(of[6], of[7])};
  }
};

}  // namespace einforge::kernels::cuda
