#pragma once

#include "einforge/kernels/cuda/kronecker_tokens.cuh"

// out[u,v] = sum_{i,s,r} first[i,u,r] second[s,v,r] in[i,s] for each token:
// contracts i, then s. A transposed tile has both matrices transposed in
// memory, in[s,i] and out[v,u], and so is the same layer with its second core
// contracted first.
//
// A persistent block holds both cores in shared memory, as operands. A warp
// takes up to 32 rows u, of several tokens where these are small, and a
// warp group of one or two warps all rows, so that no other group needs z.
// Tokens come by cp.async through a ring of a warp group's own. For each 16
// columns of z: its sums, over i, are rounded in place to the left operand of
// the product with the second core, whose sums go over s and r.
//
// The columns of the last product (its rows in a transposed tile) are
// interleaved, so that a lane has 16 bytes of a row, which it stores at once.
namespace einforge::kernels::cuda {

struct KroneckerParams {
  const __nv_bfloat16* x;
  __nv_bfloat16* y;
  const __nv_bfloat16* bias;
  KroneckerCore first;
  KroneckerCore second;
  int64_t tokens;
  int rho;
  int warp_groups;  // of a block
  int stages;       // of a warp group
};

template <int kIn, int kSecondIn, int kOut, int kSecondOut, bool kIsTransposed>
struct KroneckerTile {
  static constexpr int kI = kIn;
  static constexpr int kS = kSecondIn;
  static constexpr int kU = kOut;
  static constexpr int kV = kSecondOut;
  static constexpr bool kTransposed = kIsTransposed;
  static constexpr int kRows = kU < 32 ? kU : 32;  // of a warp and a token
  static constexpr int kGroupWarps = kU / kRows;
  // Of a warp at a time: 64 sums per thread, or 32 where operands are many.
  static constexpr int kTokens = kI > 32 ? 1 : 2048 / (kRows * kV);
  static constexpr int kMostWarpGroups = 12 / kGroupWarps;
  static constexpr int kStageBytes = 2 * kTokens * kI * kS;
  static constexpr int kCoreBytes = 2 * (kI * kU + kS * kV);  // of one r
  static_assert(kTokens > 0 && (kTransposed ? kRows : kV) % 32 == 0);
};

template <class Tile>
struct KroneckerForward {
  static constexpr int kI = Tile::kI;
  static constexpr int kS = Tile::kS;
  static constexpr int kU = Tile::kU;
  static constexpr int kV = Tile::kV;
  static constexpr int kTokens = Tile::kTokens;
  static constexpr int kRowSquares = Tile::kRows / 16;
  static constexpr int kISquares = kI / 16;
  static constexpr int kSSquares = kS / 16;
  static constexpr int kVSquares = kV / 16;
  using In = std::conditional_t<
      Tile::kTransposed,
      TokenMatrix<kS, kI>,
      TokenMatrix<kI, kS>>;
  // Pieces of 16 bytes that a lane has of a token's rows.
  static constexpr int kPieces = Tile::kRows * kV / 256;
  // Whether all of a warp's tokens stay in registers for every r.
  static constexpr bool kHeld = kTokens * kISquares * kSSquares <= 8;
  using Sums = float[kTokens][kRowSquares][kVSquares][2][4];

  const KroneckerParams& p;
  int lane = static_cast<int>(threadIdx.x) % 32;
  int warp_group = static_cast<int>(threadIdx.x) / 32 / Tile::kGroupWarps;
  int member = static_cast<int>(threadIdx.x) / 32 % Tile::kGroupWarps;
  uint32_t ring;
  uint32_t first_core;   // [r][u][i] in squares
  uint32_t second_core;  // [r][s][v]

  __device__ KroneckerForward(const KroneckerParams& params, uint32_t shared)
      : p(params),
        ring(shared + warp_group * p.stages * Tile::kStageBytes),
        first_core(shared + p.warp_groups * p.stages * Tile::kStageBytes),
        second_core(first_core + 2 * kI * kU * p.rho) {}

  __device__ void pack_cores() const {
    pack_core</*kLeft=*/true, /*kInterleaved=*/Tile::kTransposed, false>(
        first_core, p.first, kISquares, kU / 16, 0, p.rho);
    pack_core</*kLeft=*/false, /*kInterleaved=*/!Tile::kTransposed, true>(
        second_core, p.second, kSSquares, kVSquares, 0, p.rho);
  }

  __device__ uint4 core_square(uint32_t core, int square) const {
    return ptx::load_shared(core + 16 * (32 * square + lane));
  }

  // Starts the copy of a group of tokens, if there is one.
  __device__ void fetch(int64_t group, int slot) const {
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      const int64_t token = group * kTokens + t;
      if (token < p.tokens) {
        In::copy(
            ring + slot * Tile::kStageBytes + t * In::kBytes,
            p.x + token * kI * kS,
            member,
            Tile::kGroupWarps);
      }
    }
    ptx::copy_async_commit();
  }

  // Where a piece starts in a token of y, and its words: pairs of sums.
  __device__ int place(int piece) const {
    const int row = lane / 4;
    const int column = 8 * (lane % 4);
    if constexpr (Tile::kTransposed) {
      return (8 * piece + row) * kU + member * Tile::kRows + column;
    } else {
      constexpr int kAcross = kV / 32;
      return (member * Tile::kRows + 8 * (piece / kAcross) + row) * kV +
             piece % kAcross * 32 + column;
    }
  }
  __device__ static float* word(
      float (&sums)[kRowSquares][kVSquares][2][4], int piece, int i) {
    if constexpr (Tile::kTransposed) {
      return sums[i / 2][piece / 2][piece % 2] + 2 * (i % 2);
    } else {
      constexpr int kAcross = kV / 32;
      const int down = piece / kAcross;
      return sums[down / 2][piece % kAcross * 2 + i / 2][i % 2] +
             2 * (down % 2);
    }
  }
  __device__ static uint32_t transposed(uint32_t pair) {
    return Tile::kTransposed ? transpose(pair) : pair;
  }

  __device__ void start(Sums& sums) const {
#pragma unroll
    for (int piece = 0; piece < kPieces; ++piece) {
      uint4 bias{0, 0, 0, 0};
      if (p.bias != nullptr) {
        bias = __ldg(reinterpret_cast<const uint4*>(p.bias + place(piece)));
      }
      const uint32_t words[4] = {bias.x, bias.y, bias.z, bias.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint32_t pair = transposed(words[i]);
#pragma unroll
        for (int t = 0; t < kTokens; ++t) {
          float* to = word(sums[t], piece, i);
          to[0] = 0.0F;
          to[1] = 0.0F;
          ptx::add_pair(to[0], to[1], pair);
        }
      }
    }
  }

  __device__ void store(int64_t group, Sums& sums) const {
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      const int64_t token = group * kTokens + t;
      if (token >= p.tokens) {
        break;
      }
#pragma unroll
      for (int piece = 0; piece < kPieces; ++piece) {
        uint32_t words[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float* from = word(sums[t], piece, i);
          words[i] = transposed(ptx::round_pair(from[0], from[1]));
        }
        *reinterpret_cast<uint4*>(p.y + token * kU * kV + place(piece)) = {
            words[0], words[1], words[2], words[3]};
      }
    }
  }

  // A column of squares of in: i by 16 of s.
  __device__ void load_column(
      uint32_t tokens, int s, uint4 (&column)[kTokens][kISquares]) const {
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
#pragma unroll
      for (int i = 0; i < kISquares; ++i) {
        const uint32_t from = tokens + t * In::kBytes;
        column[t][i] = Tile::kTransposed
                           ? load_square<false>(In::square(from, s, i))
                           : load_square<true>(In::square(from, i, s));
      }
    }
  }

  __device__ void compute(uint32_t tokens, Sums& sums) const {
    uint4 held[kHeld ? kSSquares : 1][kTokens][kISquares];
    if constexpr (kHeld) {
#pragma unroll
      for (int s = 0; s < kSSquares; ++s) {
        load_column(tokens, s, held[s]);
      }
    }
#pragma unroll 1
    for (int r = 0; r < p.rho; ++r) {
      uint4 first[kRowSquares][kISquares];
#pragma unroll
      for (int m = 0; m < kRowSquares; ++m) {
#pragma unroll
        for (int i = 0; i < kISquares; ++i) {
          first[m][i] = core_square(
              first_core,
              (r * (kU / 16) + member * kRowSquares + m) * kISquares + i);
        }
      }
#pragma unroll
      for (int s = 0; s < kSSquares; ++s) {
        uint4(&column)[kTokens][kISquares] = held[kHeld ? s : 0];
        if constexpr (!kHeld) {
          load_column(tokens, s, column);
        }
        uint4 z[kTokens][kRowSquares];
#pragma unroll
        for (int t = 0; t < kTokens; ++t) {
#pragma unroll
          for (int m = 0; m < kRowSquares; ++m) {
            float z_sums[2][4];
            clear(z_sums);
#pragma unroll
            for (int i = 0; i < kISquares; ++i) {
              multiply(z_sums, first[m][i], column[t][i]);
            }
            z[t][m] = as_left(z_sums);
          }
        }
#pragma unroll
        for (int v = 0; v < kVSquares; ++v) {
          const uint4 second =
              core_square(second_core, (r * kSSquares + s) * kVSquares + v);
#pragma unroll
          for (int t = 0; t < kTokens; ++t) {
#pragma unroll
            for (int m = 0; m < kRowSquares; ++m) {
              multiply(sums[t][m][v], z[t][m], second);
            }
          }
        }
      }
    }
  }

  __device__ void run() {
    const int64_t step = static_cast<int64_t>(gridDim.x) * p.warp_groups;
    int64_t group = blockIdx.x + static_cast<int64_t>(gridDim.x) * warp_group;
    for (int i = 0; i + 1 < p.stages; ++i) {
      fetch(group + i * step, i);
    }
    pack_cores();
    __syncthreads();
    const uint32_t place_in_square =
        Tile::kTransposed ? In::across_first(lane) : In::down_first(lane);
    int slot = 0;
    int free_slot = p.stages - 1;
    for (; group * kTokens < p.tokens; group += step) {
      wait_for_oldest(p.stages);
      sync_warp_group(warp_group, Tile::kGroupWarps);
      fetch(group + (p.stages - 1) * step, free_slot);
      Sums sums;
      start(sums);
      compute(ring + slot * Tile::kStageBytes + place_in_square, sums);
      store(group, sums);
      free_slot = slot;
      slot = slot + 1 == p.stages ? 0 : slot + 1;
    }
    ptx::copy_async_wait<0>();
  }
};

template <class Tile>
__global__ void __launch_bounds__(
    32 * Tile::kMostWarpGroups * Tile::kGroupWarps, 1)
    kronecker_forward_tokens(const __grid_constant__ KroneckerParams params) {
  extern __shared__ __align__(128) uint4 shared_tokens[];
  KroneckerForward<Tile> kernel(params, ptx::shared_address(shared_tokens));
  kernel.run();
}

}  // namespace einforge::kernels::cuda
