#pragma once

#include <cstdint>

// The few instructions that CUDA C++ has no plain name for.
namespace einforge::kernels::cuda::ptx {

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Copies 16 bytes to shared memory behind L1's back, or zeros if not `valid`.
__device__ __forceinline__ void copy_async(
    uint32_t shared, const void* global, bool valid) {
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared),
               "l"(global),
               "r"(bytes)
               : "memory");
}

__device__ __forceinline__ void copy_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int kPending>
__device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Volatile, so that it stays behind wait_for_pack().
__device__ __forceinline__ uint4 load_weights(const uint4* global) {
  uint4 v;
  asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(global));
  return v;
}

__device__ __forceinline__ uint4 load_shared(uint32_t shared) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(shared));
  return v;
}

__device__ __forceinline__ float load_shared_float(uint32_t shared) {
  float v;
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(v) : "r"(shared));
  return v;
}

__device__ __forceinline__ uint32_t load_shared_word(uint32_t shared) {
  uint32_t v;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(shared));
  return v;
}

__device__ __forceinline__ void store_shared(uint32_t shared, uint4 v) {
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(shared),
               "r"(v.x),
               "r"(v.y),
               "r"(v.z),
               "r"(v.w)
               : "memory");
}

__device__ __forceinline__ void store_shared_float(uint32_t shared, float v) {
  asm volatile("st.shared.f32 [%0], %1;" ::"r"(shared), "f"(v) : "memory");
}

__device__ __forceinline__ void store_shared_scalar(
    uint32_t shared, uint16_t value) {
  asm volatile("st.shared.u16 [%0], %1;" ::"r"(shared), "h"(value) : "memory");
}

__device__ __forceinline__ void store_shared_half(
    uint32_t shared, uint32_t first, uint32_t second) {
  asm volatile(
      "st.shared.v2.u32 [%0], {%1, %2};" ::"r"(shared), "r"(first), "r"(second)
      : "memory");
}

// Matrices i = 0, 1 (, 2, 3) of 8x8; lanes 8i to 8i + 7 give their rows.
__device__ __forceinline__ void load_matrix(
    uint32_t shared, uint32_t& a, uint32_t& b) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(a), "=r"(b)
               : "r"(shared));
}

__device__ __forceinline__ void load_matrix(
    uint32_t shared, uint32_t& a, uint32_t& b, uint32_t& c, uint32_t& d) {
  asm volatile(
      "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
      : "=r"(a), "=r"(b), "=r"(c), "=r"(d)
      : "r"(shared));
}

// The same, each matrix transposed.
__device__ __forceinline__ void load_matrix_transposed(
    uint32_t shared, uint32_t& a, uint32_t& b, uint32_t& c, uint32_t& d) {
  asm volatile(
      "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
      : "=r"(a), "=r"(b), "=r"(c), "=r"(d)
      : "r"(shared));
}

// Stores what load_matrix() loads.
__device__ __forceinline__ void store_matrix(
    uint32_t shared, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
          shared),
      "r"(a),
      "r"(b),
      "r"(c),
      "r"(d)
      : "memory");
#endif
}

// c (16x8) += a (16x16) b (16x8).
__device__ __forceinline__ void mma(
    float (&c)[4], const uint4& a, uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));
}

// Word i of a vector, i known when compiled.
__device__ __forceinline__ uint32_t word(const uint4& v, int i) {
  return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

// The low halves of two words as one pair, and the high halves.
__device__ __forceinline__ uint32_t low_pair(uint32_t first, uint32_t second) {
  return __byte_perm(first, second, 0x5410);
}
__device__ __forceinline__ uint32_t high_pair(uint32_t first, uint32_t second) {
  return __byte_perm(first, second, 0x7632);
}

// Two values as bfloat16, the first in the low half.
__device__ __forceinline__ uint32_t round_pair(float first, float second) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
  return pair;
}

// Products and sums of pairs of bfloat16.
__device__ __forceinline__ uint32_t multiply_pair(uint32_t a, uint32_t b) {
  uint32_t pair;
  // There is no product alone before sm_90: a b - 0.
  asm("fma.rn.bf16x2 %0, %1, %2, %3;"
      : "=r"(pair)
      : "r"(a), "r"(b), "r"(0x80008000U));
  return pair;
}
__device__ __forceinline__ uint32_t
fma_pair(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t pair;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(pair) : "r"(a), "r"(b), "r"(c));
  return pair;
}

// One of two vectors, without a branch: word by word, which the compiler does
// with a selection each.
__device__ __forceinline__ uint4
selected(bool first, const uint4& a, const uint4& b) {
  return {
      first ? a.x : b.x,
      first ? a.y : b.y,
      first ? a.z : b.z,
      first ? a.w : b.w};
}

// Adds the two halves of a pair.
__device__ __forceinline__ void add_pair(
    float& first, float& second, uint32_t pair) {
  first += __uint_as_float(pair << 16);
  second += __uint_as_float(pair & 0xFFFF0000U);
}

// Warp-uniform, and known to be so by the compiler; not computed again
// wherever it is used, which for special registers takes as long as a load.
__device__ __forceinline__ int warp_uniform(int value) {
  return __shfl_sync(0xFFFFFFFFU, value, 0);
}

// Clusters and dependent launches exist from sm_90 on; below it a cluster is
// always one block, and these are never reached.
__device__ __forceinline__ uint32_t cluster_rank() {
  uint32_t rank = 0;
#if __CUDA_ARCH__ >= 900
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
#endif
  return rank;
}

__device__ __forceinline__ void cluster_sync() {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "barrier.cluster.arrive.release.aligned;\n"
      "barrier.cluster.wait.acquire.aligned;" ::
          : "memory");
#endif
}

// The address of the same shared variable in another block of the cluster.
__device__ __forceinline__ uint32_t
peer_address(uint32_t shared, uint32_t rank) {
  uint32_t peer = shared;
#if __CUDA_ARCH__ >= 900
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;"
               : "=r"(peer)
               : "r"(shared), "r"(rank));
#endif
  return peer;
}

__device__ __forceinline__ void store_peer(uint32_t peer, uint4 v) {
#if __CUDA_ARCH__ >= 900
  asm volatile("st.shared::cluster.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(peer),
               "r"(v.x),
               "r"(v.y),
               "r"(v.z),
               "r"(v.w)
               : "memory");
#endif
}

// Grid dependency sync of PDL: returns once the kernel launched before this one
// has finished and its writes are visible (at once unless this is a dependent
// launch).
__device__ __forceinline__ void grid_dependency_sync() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// PDL: lets the dependent grid launch; its sync above still covers our writes.
__device__ __forceinline__ void launch_dependents() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

}  // namespace einforge::kernels::cuda::ptx
