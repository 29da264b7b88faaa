#pragma once

#include <cuda_bf16.h>

#include "einforge/kernels/cuda/ptx.cuh"

namespace einforge::kernels::cuda {

// Four elements side by side in memory, float32 or bfloat16, aligned to their
// size.
struct Vec4 {
  static constexpr int kSize = 4;
  float of[kSize];
};

__device__ __forceinline__ Vec4 load_vec4(const float* from) {
  const float4 v = *reinterpret_cast<const float4*>(from);
  return {{v.x, v.y, v.z, v.w}};
}
__device__ __forceinline__ Vec4 load_vec4(const __nv_bfloat16* from) {
  const uint2 v = *reinterpret_cast<const uint2*>(from);
  Vec4 vec{};
  ptx::add_pair(vec.of[0], vec.of[1], v.x);
  ptx::add_pair(vec.of[2], vec.of[3], v.y);
  return vec;
}
__device__ __forceinline__ void store_vec4(float* to, const Vec4& v) {
  *reinterpret_cast<float4*>(to) =
      make_float4(v.of[0], v.of[1], v.of[2], v.of[3]);
}
__device__ __forceinline__ void store_vec4(__nv_bfloat16* to, const Vec4& v) {
  *reinterpret_cast<uint2*>(to) = make_uint2(
      ptx::round_pair(v.of[0], v.of[1]), ptx::round_pair(v.of[2], v.of[3]));
}

}  // namespace einforge::kernels::cuda
