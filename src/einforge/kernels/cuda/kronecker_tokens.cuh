#pragma once

#include <type_traits>

#include "einforge/kernels/cuda/kronecker.h"
#include "einforge/kernels/cuda/ptx.cuh"
#include "einforge/kernels/cuda/ptx_async.cuh"

// A token of a Kronecker layer as a matrix in shared memory, and the operands
// of matrix products from it and from a core.
//
// Two layouts of mma.m16n8k16 make the kernels short. The sums of a product
// (rows g, g + 8; columns 2q, 2q + 1 of lane 4g + q), rounded to bfloat16, are
// the left operand of the next product as they are. And ldmatrix with or
// without .trans reads either operand whichever index is contiguous.
namespace einforge::kernels::cuda {

// Row-major; the vectors of 16 bytes of a line of 128 are swapped so that
// ldmatrix, which reads one vector of 8 rows, is bank-conflict-free. Sizes
// are powers of two, so offsets of bits of an index are joined by XOR.
template <int kRows, int kColumns>
struct TokenMatrix {
  static constexpr int kRowVectors = kColumns / 8;
  static constexpr int kVectors = kRows * kRowVectors;
  static constexpr int kBytes = 16 * kVectors;
  static_assert(kRows >= 16 && (kRows & (kRows - 1)) == 0);
  static_assert(kRowVectors >= 2 && (kRowVectors & (kRowVectors - 1)) == 0);

  // Bytes from the start to eight columns of a row.
  __device__ static constexpr uint32_t offset(int row, int vector) {
    const int line = kRowVectors >= 8 ? row : row * kRowVectors / 8;
    return static_cast<uint32_t>(
        16 * ((row * kRowVectors + vector) ^ (line & 7)));
  }

  // Where a lane reads from a square of 16 x 16: its matrices of 8 x 8 go down
  // first and then across, or across first.
  __device__ static uint32_t down_first(int lane) {
    return offset(lane % 16, lane / 16);
  }
  __device__ static uint32_t across_first(int lane) {
    return offset(lane % 8 + 8 * (lane / 16), lane / 8 % 2);
  }

  // `from` moved on by a place whose bits it does not have, within a matrix
  // that starts at a multiple of 128.
  __device__ static uint32_t moved(uint32_t from, uint32_t by) {
    constexpr uint32_t kLine = 127;
    return (from ^ (by & kLine)) + (by & ~kLine);
  }
  // The address of a lane's row of a square, from that of the first square.
  __device__ static uint32_t square(uint32_t first, int row, int column) {
    return moved(first, offset(16 * row, 2 * column));
  }

  // Brings a token from device memory, by the warps of a group.
  __device__ static void copy(
      uint32_t shared, const __nv_bfloat16* token, int warp, int warps) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const uint32_t first =
        shared + offset(lane / kRowVectors, lane % kRowVectors);
    token += 8 * lane;
#pragma unroll
    for (int i = warp; i < kVectors / 32; i += warps) {
      ptx::copy_async(
          moved(first, offset(32 * i / kRowVectors, 32 * i % kRowVectors)),
          token + 256 * i,
          /*valid=*/true);
    }
  }
};

// A square of 16 x 16 as an operand. The left one (16 rows) is four pairs, the
// right one two of 8 columns, one after the other.
template <bool kTransposed>
__device__ __forceinline__ uint4 load_square(uint32_t address) {
  uint4 v;
  if constexpr (kTransposed) {
    ptx::load_matrix_transposed(address, v.x, v.y, v.z, v.w);
  } else {
    ptx::load_matrix(address, v.x, v.y, v.z, v.w);
  }
  return v;
}

// left (16 x 16) times right (16 x 16), added to two sums of 16 x 8.
__device__ __forceinline__ void multiply(
    float (&sums)[2][4], const uint4& left, const uint4& right) {
  ptx::mma(sums[0], left, right.x, right.y);
  ptx::mma(sums[1], left, right.z, right.w);
}

// Sums of 16 x 16 as a left operand.
__device__ __forceinline__ uint4 as_left(const float (&sums)[2][4]) {
  return {
      ptx::round_pair(sums[0][0], sums[0][1]),
      ptx::round_pair(sums[0][2], sums[0][3]),
      ptx::round_pair(sums[1][0], sums[1][1]),
      ptx::round_pair(sums[1][2], sums[1][3])};
}

__device__ __forceinline__ void clear(float (&sums)[2][4]) {
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    sums[i / 4][i % 4] = 0.0F;
  }
}

// A square of 8 x 8, of which each lane has a pair of a row, transposed.
__device__ __forceinline__ uint32_t transpose(uint32_t pair) {
  uint32_t result;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;"
               : "=r"(result)
               : "r"(pair));
  return result;
}

// Which index lies at place i of an operand's 8 places of a vector, where a
// lane's 8 sums of four vectors are to be neighbours in memory.
__device__ __forceinline__ int interleaved(int vector, int i) {
  return vector / 4 * 32 + 8 * (i / 2) + 2 * (vector % 4) + i % 2;
}

// Elements (depth, index) and (depth + 1, index) of one r of a core.
__device__ __forceinline__ uint32_t
core_pair(const KroneckerCore& core, int depth, int index, int r) {
  const auto* data = reinterpret_cast<const unsigned short*>(core.data) +
                     depth * core.in + index * core.out + r * core.rho;
  return static_cast<uint32_t>(__ldg(data)) |
         static_cast<uint32_t>(__ldg(data + core.in)) << 16;
}

// Writes kRanks matrices (depth x columns) of a core to shared memory as
// squares in the order [r][columns][depth], or [r][depth][columns], each as a
// left operand (its rows are the columns of the core) or a right one.
template <bool kLeft, bool kInterleaved, bool kDepthFirst>
__device__ __forceinline__ void pack_core(
    uint32_t shared,
    const KroneckerCore& core,
    int depth_squares,
    int column_squares,
    int first_rank,
    int ranks) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int place = lane / 4;
  const int pair = 2 * (lane % 4);
  const int inner = kDepthFirst ? column_squares : depth_squares;
  const int squares = depth_squares * column_squares;
  for (int i = static_cast<int>(threadIdx.x) / 32; i < ranks * squares;
       i += static_cast<int>(blockDim.x) / 32) {
    const int r = first_rank + i / squares;
    const int outer_index = i % squares / inner;
    const int inner_index = i % inner;
    const int depth = 16 * (kDepthFirst ? outer_index : inner_index) + pair;
    const int vector = 2 * (kDepthFirst ? inner_index : outer_index);
    const auto column = [&](int half) {
      return kInterleaved ? interleaved(vector + half, place)
                          : 8 * (vector + half) + place;
    };
    const uint32_t corner = core_pair(core, depth, column(0), r);
    const uint32_t deeper = core_pair(core, depth + 8, column(0), r);
    const uint32_t next = core_pair(core, depth, column(1), r);
    const uint32_t last = core_pair(core, depth + 8, column(1), r);
    ptx::store_shared(
        shared + 16 * static_cast<uint32_t>(32 * i + lane),
        kLeft ? uint4{corner, next, deeper, last}
              : uint4{corner, deeper, next, last});
  }
}

// For a ring of `stages` stages, of which all but one may be on their way.
__device__ __forceinline__ void wait_for_oldest(int stages) {
  if (stages == 4) {
    ptx::copy_async_wait<2>();
  } else if (stages == 3) {
    ptx::copy_async_wait<1>();
  } else {
    ptx::copy_async_wait<0>();
  }
}

// Barrier of the warps of a group, which share tokens.
__device__ __forceinline__ void sync_warp_group(int warp_group, int warps) {
  if (warps == 1) {
    __syncwarp();
  } else {
    ptx::named_barrier(1 + warp_group, 32 * warps);
  }
}

}  // namespace einforge::kernels::cuda
