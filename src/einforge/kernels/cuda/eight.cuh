#pragma once

#include "einforge/kernels/cuda/ptx.cuh"

namespace einforge::kernels::cuda {

// A vector of 16 bytes of bfloat16, in float32.
struct Eight {
  float of[8];

  __device__ static Eight load(const uint4& v) {
    Eight e{};
    ptx::add_pair(e.of[0], e.of[1], v.x);
    ptx::add_pair(e.of[2], e.of[3], v.y);
    ptx::add_pair(e.of[4], e.of[5], v.z);
    ptx::add_pair(e.of[6], e.of[7], v.w);
    return e;
  }
  __device__ void add_product(const Eight& left, const Eight& right) {
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
