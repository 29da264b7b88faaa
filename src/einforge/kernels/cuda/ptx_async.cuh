#pragma once

#include <cstdint>

#include "einforge/kernels/cuda/ptx.cuh"

// Hopper's asynchronous copies and barriers. Empty below sm_90, where the
// kernels that use them are never launched.
namespace einforge::kernels::cuda::ptx {

// --- barriers in shared memory ------------------------------------------

__device__ __forceinline__ void barrier_init(uint32_t barrier, int arrivals) {
#if __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier),
               "r"(arrivals)
               : "memory");
#endif
}

// Makes initialised barriers visible to the cluster and TMA.
__device__ __forceinline__ void barrier_init_fence() {
#if __CUDA_ARCH__ >= 900
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async;" ::: "memory");
#endif
}

__device__ __forceinline__ void barrier_arrive(uint32_t barrier) {
#if __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier)
               : "memory");
#endif
}

// Arrives at the same barrier of another block (its address from
// peer_address). Says that this thread has read what it will read; it does not
// publish writes, which would cost a fence of the whole cluster.
__device__ __forceinline__ void barrier_arrive_peer(uint32_t peer) {
#if __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(peer)
               : "memory");
#endif
}

// One arrival that also says how many bytes TMA will bring.
__device__ __forceinline__ void barrier_expect(uint32_t barrier, int bytes) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier),
      "r"(bytes)
      : "memory");
#endif
}

// Waits until the phase of this parity has completed; a new barrier counts as
// having completed parity 1. Also where TMA or another block wrote
// what the barrier announces: that lies in this block's shared memory, which an
// acquire for the whole cluster would not make newer (it empties L1).
__device__ __forceinline__ void barrier_wait(
    uint32_t barrier, uint32_t parity) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "WAIT:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra DONE;\n"
      "bra WAIT;\n"
      "DONE:\n"
      "}" ::"r"(barrier),
      "r"(parity)
      : "memory");
#endif
}

// A place in a ring of buffers, and the parity that its barriers have when it
// is this pass's turn: `first` is 0 to wait for what others fill, 1 for what
// they empty, since a new buffer is empty.
template <int kSize>
struct Ring {
  int slot = 0;
  uint32_t phase;
  __device__ explicit Ring(uint32_t first) : phase(first) {}
  __device__ void next() {
    slot = slot + 1 == kSize ? 0 : slot + 1;
    phase ^= slot == 0 ? 1 : 0;
  }
};

// Stores 16 bytes in this block's shared memory, if `own`, or in that of a
// block of the cluster, and counts them at a barrier there (addresses from
// peer_address). Without a branch: the two are one instruction each.
__device__ __forceinline__ void store_async(
    bool own, uint32_t to, uint4 v, uint32_t barrier) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "{\n"
      ".reg .pred own;\n"
      "setp.ne.s32 own, %6, 0;\n"
      "@own st.shared.v4.b32 [%0], {%1, %2, %3, %4};\n"
      "@!own st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 "
      "[%0], {%1, %2, %3, %4}, [%5];\n"
      "}" ::"r"(to),
      "r"(v.x),
      "r"(v.y),
      "r"(v.z),
      "r"(v.w),
      "r"(barrier),
      "r"(own ? 1 : 0)
      : "memory");
#endif
}

// Barrier `id` (1 to 15) of `threads` threads of this block.
__device__ __forceinline__ void named_barrier(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// --- copies --------------------------------------------------------------

// Orders ordinary accesses of shared memory before TMA's.
__device__ __forceinline__ void async_fence() {
#if __CUDA_ARCH__ >= 900
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// Boxes of a tensor (column, row, token); `map` is a CUtensorMap.
__device__ __forceinline__ void tensor_load(
    uint32_t shared,
    const void* map,
    int column,
    int row,
    int token,
    uint32_t barrier) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx"
      "::bytes [%0], [%1, {%2, %3, %4}], [%5];" ::"r"(shared),
      "l"(map),
      "r"(column),
      "r"(row),
      "r"(token),
      "r"(barrier)
      : "memory");
#endif
}

// The same into every block of the cluster whose bit is set in `blocks`.
__device__ __forceinline__ void tensor_load_multicast(
    uint32_t shared,
    const void* map,
    int column,
    int row,
    int token,
    uint32_t barrier,
    uint16_t blocks) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx"
      "::bytes.multicast::cluster [%0], [%1, {%2, %3, %4}], [%5], %6;" ::"r"(
          shared),
      "l"(map),
      "r"(column),
      "r"(row),
      "r"(token),
      "r"(barrier),
      "h"(blocks)
      : "memory");
#endif
}

__device__ __forceinline__ void tensor_store(
    const void* map, int column, int row, int token, uint32_t shared) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "cp.async.bulk.tensor.3d.global.shared::cta.bulk_group "
      "[%0, {%1, %2, %3}], [%4];" ::"l"(map),
      "r"(column),
      "r"(row),
      "r"(token),
      "r"(shared)
      : "memory");
#endif
}

// Adds to what is there; bfloat16 sums are rounded.
__device__ __forceinline__ void tensor_add(
    const void* map, int column, int row, int token, uint32_t shared) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "cp.reduce.async.bulk.tensor.3d.global.shared::cta.add.bulk_group "
      "[%0, {%1, %2, %3}], [%4];" ::"l"(map),
      "r"(column),
      "r"(row),
      "r"(token),
      "r"(shared)
      : "memory");
#endif
}

__device__ __forceinline__ void store_commit() {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
#endif
}

// Until the shared memory of this thread's stores may be written again.
__device__ __forceinline__ void store_wait_read() {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
#endif
}

// --- registers -----------------------------------------------------------

// All warps of a warpgroup (four warps) must call these.
template <int kRegisters>
__device__ __forceinline__ void setmaxnreg_inc() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
#endif
}
template <int kRegisters>
__device__ __forceinline__ void setmaxnreg_dec() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
#endif
}

}  // namespace einforge::kernels::cuda::ptx
