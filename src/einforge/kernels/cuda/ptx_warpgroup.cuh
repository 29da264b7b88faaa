#pragma once

#include <cstdint>

#if __CUDA_ARCH__ == 900 && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
#error expected 9.0a, which has products of a warpgroup; got 9.0
#endif

// Products of a warpgroup (four warps, the first a multiple of four). Empty but
// for sm_90a; other kernels run elsewhere.
namespace einforge::kernels::cuda::ptx {

// A matrix in shared memory, of 8 x 8 matrices whose rows are 16 bytes one
// after the other: so many bytes between those that are neighbours along the
// depth, and between those that are neighbours along the columns.
__device__ __forceinline__ uint64_t
matrix_descriptor(uint32_t shared, int deep, int across) {
  return static_cast<uint64_t>((shared & 0x3FFFFU) / 16) |
         static_cast<uint64_t>(deep / 16) << 16 |
         static_cast<uint64_t>(across / 16) << 32;
}

// Before the first product after registers or shared memory were written.
__device__ __forceinline__ void warpgroup_fence() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

// Until all products are done, which is when the sums may be read (after
// warpgroup_fence_operands()) and the matrices written.
__device__ __forceinline__ void warpgroup_wait() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile(
      "wgmma.commit_group.sync.aligned;\n"
      "wgmma.wait_group.sync.aligned 0;" ::
          : "memory");
#endif
}

// The compiler must not move what it does with these sums over this place.
template <int kProducts, int kCount>
__device__ __forceinline__ void warpgroup_fence_operands(
    float (&sums)[kProducts][kCount]) {
#pragma unroll
  for (float(&product)[kCount] : sums) {
#pragma unroll
    for (float& sum : product) {
      asm volatile("" : "+f"(sum)::"memory");
    }
  }
}

// c (64 x 16) = a (64 x 16) b (16 x 16), added to what it was if `add`. A warp
// has 16 rows of a and c: fragments as those of mma(), of c two side by side.
__device__ __forceinline__ void warpgroup_mma(
    float (&c)[8], const uint4& a, uint64_t b, int add) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile(
      "{\n"
      ".reg .pred add;\n"
      "setp.ne.s32 add, %13, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7}, {%8, %9, %10, %11}, %12, "
      "add, 1, 1, 0;\n"
      "}"
      : "+f"(c[0]),
        "+f"(c[1]),
        "+f"(c[2]),
        "+f"(c[3]),
        "+f"(c[4]),
        "+f"(c[5]),
        "+f"(c[6]),
        "+f"(c[7])
      : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "l"(b), "r"(add));
#endif
}

}  // namespace einforge::kernels::cuda::ptx
