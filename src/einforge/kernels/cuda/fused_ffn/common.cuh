#pragma once

#include "einforge/kernels/cuda/ptx.cuh"

// What the kernels of fused_ffn/ share.
namespace einforge::kernels::cuda::fused_ffn {

__device__ __forceinline__ uint4 load_packed(const uint4* global) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(global));
  return v;
}

// d = a b + c.
__device__ __forceinline__ void mma_from(
    float (&d)[4],
    const uint4& a,
    uint32_t b0,
    uint32_t b1,
    const float (&c)[4]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a.x),
        "r"(a.y),
        "r"(a.z),
        "r"(a.w),
        "r"(b0),
        "r"(b1),
        "f"(c[0]),
        "f"(c[1]),
        "f"(c[2]),
        "f"(c[3]));
}

__device__ __forceinline__ uint2 load_shared_half(uint32_t shared) {
  uint2 v;
  asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];"
               : "=r"(v.x), "=r"(v.y)
               : "r"(shared));
  return v;
}

// Contiguous bytes, a multiple of 16, to L2.
__device__ __forceinline__ void prefetch_l2(const void* global, int bytes) {
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(global),
               "r"(bytes)
               : "memory");
}

// A matrix of 8 x 8, transposed.
__device__ __forceinline__ uint32_t transposed(uint32_t matrix) {
  uint32_t other;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;"
      : "=r"(other)
      : "r"(matrix));
  return other;
}

__device__ __forceinline__ float tanh_approximate(float v) {
  float t;
  asm("tanh.approx.f32 %0, %1;" : "=f"(t) : "f"(v));
  return t;
}

// v (1 + tanh(sqrt(2 / pi) (2 v + 0.044715 (2 v)^3))): of half of the sum, as
// the cores before it are packed halved.
__device__ __forceinline__ float gelu_of_half(float v) {
  constexpr float kScale = 2 * 0.7978845608F;
  const float t =
      tanh_approximate(v * fmaf(4 * kScale * 0.044715F, v * v, kScale));
  return fmaf(v, t, v);
}

// The same and the derivative by the whole sum.
struct GeluAndSlope {
  float value;
  float slope;
};
__device__ __forceinline__ GeluAndSlope gelu_and_slope_of_half(float v) {
  constexpr float kScale = 2 * 0.7978845608F;
  const float square = v * v;
  const float t =
      tanh_approximate(v * fmaf(4 * kScale * 0.044715F, square, kScale));
  const float du = v * fmaf(12 * kScale * 0.044715F / 2, square, kScale / 2);
  return {fmaf(v, t, v), fmaf(du, fmaf(-t, t, 1.0F), fmaf(0.5F, t, 0.5F))};
}

}  // namespace einforge::kernels::cuda::fused_ffn
