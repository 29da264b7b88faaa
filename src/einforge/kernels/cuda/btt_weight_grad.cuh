#pragma once

#include "einforge/kernels/cuda/btt_linear_layout.h"
#include "einforge/kernels/cuda/btt_weight_grad.h"
#include "einforge/kernels/cuda/ptx.cuh"

// The batched product over tokens; docs/design/btt_kernels.md has the bytes.
//
// A block takes (kGroups x 8 batches, 16 kRowTiles rows, 32 kColumnTiles
// columns) and some of the tokens, which it copies 16 at a time to shared
// memory, several such steps ahead. A warp takes 8 batches, 16 rows and 32
// columns: 128 sums per thread. Its tokens are the depth of the product:
//   p lies with batches innermost, so that 16 bytes are 8 batches of one row;
//     PRMT pairs two tokens, and eight such reads are the operands of 8
//     batches (16 rows x 16 tokens each);
//   q lies with columns innermost, and ldmatrix.trans turns it.
namespace einforge::kernels::cuda {

inline constexpr int kStepTokens = 16;
inline constexpr int kWarpRows = 16;
inline constexpr int kWarpColumns = 32;

struct BttWeightGradParams {
  const __nv_bfloat16* p;
  const __nv_bfloat16* q;
  float* partials;  // (splits, batch, rows, all_columns)
  int64_t p_stride;
  int64_t tokens;
  int batch;
  int rows;
  int all_columns;  // rho and columns as one
  int group_blocks;
  int row_blocks;
  int column_blocks;
  int splits;
  int stages;
};

template <int kGroups, int kRowTiles, int kColumnTiles>
struct BttWeightGradTile {
  static constexpr int kWarps = kGroups * kRowTiles * kColumnTiles;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kRows = kWarpRows * kRowTiles;
  static constexpr int kColumns = kWarpColumns * kColumnTiles;
  static constexpr int kColumnVectors = kColumns / kVector;
  // In vectors. p: [token][group][row]; groups are padded so that the copy,
  // whose threads run over groups first, spreads over the banks; tokens have
  // an odd stride, so that lanes of two rows and four tokens do.
  static constexpr int kGroupStride = kRows + (kGroups > 1 ? 8 / kGroups : 0);
  static constexpr int kTokenStrideP = (kGroups * kGroupStride) | 1;
  // q: [token][batch][column vector]; the odd stride is for ldmatrix.
  static constexpr int kTokenStrideQ = (kGroups * kVector * kColumnVectors) | 1;
  static constexpr int kStageVectors =
      kStepTokens * (kTokenStrideP + kTokenStrideQ);
  static constexpr int kStageBytes = 16 * kStageVectors;
};

template <class Tile>
struct BttWeightGrad;

template <int kGroups, int kRowTiles, int kColumnTiles>
struct BttWeightGrad<BttWeightGradTile<kGroups, kRowTiles, kColumnTiles>> {
  using Tile = BttWeightGradTile<kGroups, kRowTiles, kColumnTiles>;
  // Every thread copies one (group, row) of p for every kTokenStepP-th token,
  // and one vector of q for every kTokenStepQ-th.
  static constexpr int kTokenStepP = Tile::kThreads / (kGroups * Tile::kRows);
  static constexpr int kTokenStepQ =
      Tile::kThreads / (kGroups * kVector * Tile::kColumnVectors);
  static_assert(kTokenStepP > 0 && kStepTokens % kTokenStepP == 0);
  static_assert(kTokenStepQ > 0 && kStepTokens % kTokenStepQ == 0);

  const BttWeightGradParams& params;
  uint32_t shared;
  int lane;
  int group;  // of this warp in the block
  int row_tile;
  int column_tile;
  int first_batch;  // of the block
  int first_row;
  int first_column;
  int split;
  float sums[8][4][4];  // [batch][n-tile][fragment]

  __device__ BttWeightGrad(const BttWeightGradParams& p, uint32_t address)
      : params(p), shared(address) {
    lane = static_cast<int>(threadIdx.x) % 32;
    int warp = static_cast<int>(threadIdx.x) / 32;
    column_tile = warp % kColumnTiles;
    warp /= kColumnTiles;
    row_tile = warp % kRowTiles;
    group = warp / kRowTiles;
    // Groups first: their blocks share the sectors of p, and run together.
    int block = static_cast<int>(blockIdx.x);
    first_batch = block % p.group_blocks * kGroups * kVector;
    block /= p.group_blocks;
    first_row = block % p.row_blocks * Tile::kRows;
    block /= p.row_blocks;
    first_column = block % p.column_blocks * Tile::kColumns;
    split = block / p.column_blocks;
  }

  // Starts copying the tokens of a step to a stage; what lies outside of the
  // operands becomes zero.
  __device__ void load(int64_t first_token, int stage) const {
    const uint32_t p_shared =
        shared + static_cast<uint32_t>(stage * Tile::kStageBytes);
    const uint32_t q_shared =
        p_shared +
        static_cast<uint32_t>(kStepTokens * Tile::kTokenStrideP) * 16;
    const int thread = static_cast<int>(threadIdx.x);
    {
      const int g = thread % kGroups;
      const int row = thread / kGroups % Tile::kRows;
      const int token = thread / (kGroups * Tile::kRows);
      const int batch = first_batch + g * kVector;
      const bool inside = batch < params.batch && first_row + row < params.rows;
      const __nv_bfloat16* from =
          params.p + (first_token + token) * params.p_stride +
          static_cast<int64_t>(first_row + row) * params.batch + batch;
      const uint32_t to = p_shared + static_cast<uint32_t>(
                                         token * Tile::kTokenStrideP +
                                         g * Tile::kGroupStride + row) *
                                         16;
#pragma unroll
      for (int t = 0; t < kStepTokens; t += kTokenStepP) {
        const bool valid = inside && first_token + token + t < params.tokens;
        ptx::copy_async(
            to + static_cast<uint32_t>(t * Tile::kTokenStrideP) * 16,
            valid ? from + t * params.p_stride : params.p,
            valid);
      }
    }
    {
      const int vector = thread % Tile::kColumnVectors;
      const int b = thread / Tile::kColumnVectors % (kGroups * kVector);
      const int token = thread / (Tile::kColumnVectors * kGroups * kVector);
      const int column = first_column + vector * kVector;
      const int batch = first_batch + b;
      const bool inside = batch < params.batch && column < params.all_columns;
      const int64_t stride =
          static_cast<int64_t>(params.batch) * params.all_columns;
      const __nv_bfloat16* from =
          params.q + (first_token + token) * stride +
          static_cast<int64_t>(batch) * params.all_columns + column;
      const uint32_t to = q_shared + static_cast<uint32_t>(
                                         token * Tile::kTokenStrideQ +
                                         b * Tile::kColumnVectors + vector) *
                                         16;
#pragma unroll
      for (int t = 0; t < kStepTokens; t += kTokenStepQ) {
        const bool valid = inside && first_token + token + t < params.tokens;
        ptx::copy_async(
            to + static_cast<uint32_t>(t * Tile::kTokenStrideQ) * 16,
            valid ? from + t * stride : params.q,
            valid);
      }
    }
  }

  __device__ void multiply(int stage) {
    const uint32_t p_shared =
        shared + static_cast<uint32_t>(stage * Tile::kStageBytes);
    const uint32_t q_shared =
        p_shared +
        static_cast<uint32_t>(kStepTokens * Tile::kTokenStrideP) * 16;
    // Rows lane / 4 and 8 more, tokens 2 (lane % 4), 1 more, and 8 more.
    const uint32_t p_from =
        p_shared +
        static_cast<uint32_t>(
            2 * (lane % 4) * Tile::kTokenStrideP + group * Tile::kGroupStride +
            row_tile * kWarpRows + lane / 4) *
            16;
    uint4 v[2][2][2];  // [8 tokens][8 rows][odd token]
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      v[i / 4][i / 2 % 2][i % 2] = ptx::load_shared(
          p_from +
          static_cast<uint32_t>(
              (i / 4 * 8 + i % 2) * Tile::kTokenStrideP + i / 2 % 2 * 8) *
              16);
    }
    // Lanes 0-7 and 8-15 give the two halves of the tokens of the first
    // n-tile, lanes 16-31 those of the next.
    const uint32_t q_from =
        q_shared + static_cast<uint32_t>(
                       (lane / 8 % 2 * 8 + lane % 8) * Tile::kTokenStrideQ +
                       group * kVector * Tile::kColumnVectors +
                       column_tile * (kWarpColumns / kVector) + lane / 16) *
                       16;
#pragma unroll
    for (int b = 0; b < kVector; ++b) {
      const uint4 w{
          paired(b, v[0][0]),
          paired(b, v[0][1]),
          paired(b, v[1][0]),
          paired(b, v[1][1])};
#pragma unroll
      for (int n_tile = 0; n_tile < 4; n_tile += 2) {
        uint32_t a0;
        uint32_t a1;
        uint32_t b0;
        uint32_t b1;
        ptx::load_matrix_transposed(
            q_from +
                static_cast<uint32_t>(b * Tile::kColumnVectors + n_tile) * 16,
            a0,
            a1,
            b0,
            b1);
        ptx::mma(sums[b][n_tile], w, a0, a1);
        ptx::mma(sums[b][n_tile + 1], w, b0, b1);
      }
    }
  }

  // Batch b of two tokens, the first in the low half.
  __device__ static __forceinline__ uint32_t
  paired(int b, const uint4 (&v)[2]) {
    const uint32_t first = ptx::word(v[0], b / 2);
    const uint32_t second = ptx::word(v[1], b / 2);
    return b % 2 == 0 ? ptx::low_pair(first, second)
                      : ptx::high_pair(first, second);
  }

  __device__ void store() const {
#pragma unroll
    for (int b = 0; b < kVector; ++b) {
      const int batch = first_batch + group * kVector + b;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = first_row + row_tile * kWarpRows + half * 8 + lane / 4;
        float* to = params.partials +
                    ((static_cast<int64_t>(split) * params.batch + batch) *
                         params.rows +
                     row) *
                        params.all_columns;
#pragma unroll
        for (int n_tile = 0; n_tile < 4; ++n_tile) {
          const int column = first_column + column_tile * kWarpColumns +
                             n_tile * 8 + 2 * (lane % 4);
          if (batch < params.batch && row < params.rows &&
              column < params.all_columns) {
            *reinterpret_cast<float2*>(to + column) = {
                sums[b][n_tile][2 * half], sums[b][n_tile][2 * half + 1]};
          }
        }
      }
    }
  }

  // Waits for the oldest step in flight.
  __device__ void wait() const {
    switch (params.stages) {
      case 2:
        return ptx::copy_async_wait<0>();
      case 3:
        return ptx::copy_async_wait<1>();
      case 4:
        return ptx::copy_async_wait<2>();
      default:
        return ptx::copy_async_wait<4>();
    }
  }

  __device__ void run() {
#pragma unroll
    for (int b = 0; b < 8; ++b) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          sums[b][e][i] = 0.0F;
        }
      }
    }
    // Every splits-th step, the last first: all blocks sweep down the tokens
    // together, and hit in the L2 cache what the kernel before wrote last.
    const int steps =
        static_cast<int>((params.tokens + kStepTokens - 1) / kStepTokens);
    const int count = (steps - split + params.splits - 1) / params.splits;
    const auto first_token = [&](int i) {
      return static_cast<int64_t>(split + (count - 1 - i) * params.splits) *
             kStepTokens;
    };
    const int ahead = params.stages - 1;
    for (int i = 0; i < ahead; ++i) {
      if (i < count) {
        load(first_token(i), i);
      }
      ptx::copy_async_commit();
    }
    int stage = 0;
    int free = ahead;
    for (int i = 0; i < count; ++i) {
      wait();
      __syncthreads();  // this step is here, and the last one's stage is free
      if (i + ahead < count) {
        load(first_token(i + ahead), free);
      }
      ptx::copy_async_commit();
      multiply(stage);
      stage = stage + 1 == params.stages ? 0 : stage + 1;
      free = free + 1 == params.stages ? 0 : free + 1;
    }
    ptx::copy_async_wait<0>();
    store();
  }
};

template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads, 1) btt_weight_grad_partials(
    const __grid_constant__ BttWeightGradParams params) {
  extern __shared__ uint4 shared[];
  BttWeightGrad<Tile> kernel(params, ptx::shared_address(shared));
  kernel.run();
}

}  // namespace einforge::kernels::cuda
