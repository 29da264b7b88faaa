#pragma once

#include <cuda.h>

#include "einforge/kernels/cuda/btt_linear.h"
#include "einforge/kernels/cuda/btt_linear_layout.h"
#include "einforge/kernels/cuda/ptx_async.cuh"
#include "einforge/kernels/cuda/routed_tiles.cuh"

// The fused gradients of both cores; docs/design/btt_backward.md draws it.
//
// The two cores are two sides of one picture. Side x has activations x, rows
// alpha, `own` index gamma, `other` index phi, core A, and makes z; side dy has
// dy, epsilon, phi, gamma, core B, and makes dz:
//
//   made[t, own, other]       = sum_row activations[t, row, own] core[row, ..]
//   grad[row, own, other]     = sum_t activations[t, row, own] made'[t, ..]
//
// where made' is what the other side made. A block takes 16 gammas, 16 phis and
// one r, keeps both cores in shared memory and both gradients in the registers
// of eight warps, and sweeps over its share of the tokens, 16 at a time, which
// another warp has copied. Between making z and dz of a tile and adding to the
// gradients there is one barrier.
//
// A cluster is kGammaRanks such blocks of gammas by kPhiRanks of phis, two each
// where the layer has them: a block brings half of the tokens' x and dy, to
// itself and to the block that shares them.
//
// In every product eight neighbours of the own index, which lie side by side in
// memory, are eight independent matrices: one 16-byte read gives a lane its
// element of all eight, and PRMT pairs two along the depth.
namespace einforge::kernels::cuda {

struct BttBackwardParams {
  struct Side {
    CUtensorMap activations;  // (own, row, token), one token's of a block
    const __nv_bfloat16* core;
    int64_t row_stride;  // of the core
    int64_t own_stride;
    int64_t other_stride;
    int64_t rho_stride;
    int64_t expert_stride;
    float* partials;  // (slots, own, row, rho, other)
    int own;          // of the layer
    int other;
  };
  Side x;
  Side dy;
  int64_t tokens;
  int rho;
  int gamma_groups;  // of kGammaRanks blocks
  int phi_groups;
  int splits;
  // Of a mixture: its rows, and each pair's gate, which z and dz take. A split
  // has a stretch of all tiles; what it has of expert e goes to slot split + e.
  RoutedRows rows;
  const float* gates;
};

inline constexpr int kBackwardTokens = 16;  // of a tile
inline constexpr int kBackwardOwn = 16;     // gammas, and phis, of a block
inline constexpr int kBackwardOctets = kBackwardOwn / kVector;
inline constexpr int kBackwardBuffers = 2;
inline constexpr int kBackwardWorkers = 8;  // warps

// What a block keeps of one side, and its index maps in shared memory.
enum class BttBackwardName { kX, kDy };
template <BttBackwardName kSideName, int kRowCount>
struct BttBackwardSide {
  static constexpr bool kIsX = kSideName == BttBackwardName::kX;
  static constexpr int kRows = kRowCount;
  static constexpr int kCoreBytes = kBackwardOwn * kRows * kBackwardOwn * 2;
  // Rows of 32 bytes in the copy engine's swizzle, even tokens first; odd ones
  // are 128 bytes out of step with them, so that their swizzle is the other.
  static constexpr int kTokenBytes = kRows * kBackwardOwn * 2;
  static constexpr int kOddTokens = kBackwardTokens / 2 * kTokenBytes + 128;
  static constexpr int kActivationBytes = 2 * kOddTokens;
  static constexpr int kMadeBytes =
      kBackwardOctets * kBackwardOwn * kBackwardTokens * 16;
  // Products of eight matrices each.
  static constexpr int kMakeUnits = kBackwardOctets * kBackwardOctets;
  static constexpr int kAddUnits =
      kBackwardOctets * (kRows / 16) * kBackwardOctets;
  static constexpr int kWarpUnits =
      kAddUnits > kBackwardWorkers ? kAddUnits / kBackwardWorkers : 1;
  static_assert(
      kAddUnits % kBackwardWorkers == 0 || kAddUnits < kBackwardWorkers);
  static_assert(kBackwardOctets % kWarpUnits == 0);  // they share rows

  __device__ static uint32_t token(int token) {
    return static_cast<uint32_t>(
        token / 2 * kTokenBytes + token % 2 * kOddTokens);
  }
  // An octet of a row. Neither reads of two tokens and the rows q, nor reads
  // of rows 2 i and 2 i + 1 and the tokens q (but for pairs of tokens), q in 0
  // to 3, meet in a bank.
  __device__ static uint32_t activation(int octet, int token, int row) {
    const int flip = (row / 4 ^ token) & 1;
    return BttBackwardSide::token(token) +
           static_cast<uint32_t>((row * kBackwardOctets + (octet ^ flip)) * 16);
  }
  // (own, row, octet of the other index).
  __device__ static uint32_t core(int own, int row, int octet) {
    return static_cast<uint32_t>(
        ((own * kRows + row) * kBackwardOctets + (octet ^ (row / 4 & 1))) * 16);
  }
  // (octet, other, token) vectors of z or dz.
  __device__ static uint32_t made(int octet, int other, int token) {
    return static_cast<uint32_t>(
        ((octet * kBackwardOwn + other) * kBackwardTokens +
         (token ^ (other & 7))) *
        16);
  }
};

template <
    int kAlphaSize,
    int kEpsilonSize,
    int kGammaRankCount,
    int kPhiRankCount>
struct BttBackwardTile {
  static constexpr int kGammaRanks = kGammaRankCount;
  static constexpr int kPhiRanks = kPhiRankCount;
  static constexpr int kCluster = kGammaRanks * kPhiRanks;
  using X = BttBackwardSide<BttBackwardName::kX, kAlphaSize>;
  using Dy = BttBackwardSide<BttBackwardName::kDy, kEpsilonSize>;
  // A warpgroup of which one warp copies gives its registers to the workers.
  static constexpr int kThreads = 32 * (kBackwardWorkers + 4);
  static constexpr int kCopierRegisters = 40;
  static constexpr int kWorkerRegisters = 232;
  // Shared memory: activations, cores, what was made, barriers, gates.
  static constexpr int kActivationBytes =
      X::kActivationBytes + Dy::kActivationBytes;
  static constexpr int kCores = kBackwardBuffers * kActivationBytes;
  static constexpr int kMade = kCores + X::kCoreBytes + Dy::kCoreBytes;
  static constexpr int kMadeBytes = X::kMadeBytes + Dy::kMadeBytes;
  static constexpr int kBarriers = kMade + kBackwardBuffers * kMadeBytes;
  static constexpr int kGates = kBarriers + 8 * 2 * kBackwardBuffers;
  static constexpr int kSharedBytes =
      kGates + 4 * kBackwardTokens * kBackwardBuffers + 256;  // to align
  // What the copy engine brings to a block for a tile.
  static constexpr int kTileBytes =
      kBackwardTokens * (X::kTokenBytes + Dy::kTokenBytes);
  static_assert(X::kActivationBytes % 256 == 0);
  static_assert(Dy::kActivationBytes % 256 == 0);
};

// With kRouted, for each expert of a mixture.
template <class Tile, bool kRouted>
struct BttBackward {
  using X = typename Tile::X;
  using Dy = typename Tile::Dy;
  using Sums = float[8][4];  // [matrix][fragment]

  const BttBackwardParams& p;
  uint32_t shared;
  int lane;
  int warp;
  int gamma_rank;  // of this block in its cluster
  int phi_rank;
  int first_gamma;
  int first_phi;
  int r;
  int split;

  __device__ BttBackward(const BttBackwardParams& params, uint32_t raw)
      : p(params), shared((raw + 255) / 256 * 256) {
    lane = static_cast<int>(threadIdx.x) % 32;
    warp = static_cast<int>(threadIdx.x) / 32;
    const int rank =
        Tile::kCluster > 1 ? static_cast<int>(ptx::cluster_rank()) : 0;
    gamma_rank = rank % Tile::kGammaRanks;
    phi_rank = rank / Tile::kGammaRanks;
    // Clusters of the same tokens are neighbours, and meet in L2.
    int cluster = static_cast<int>(blockIdx.x) / Tile::kCluster;
    first_gamma = (cluster % p.gamma_groups * Tile::kGammaRanks + gamma_rank) *
                  kBackwardOwn;
    cluster /= p.gamma_groups;
    first_phi =
        (cluster % p.phi_groups * Tile::kPhiRanks + phi_rank) * kBackwardOwn;
    cluster /= p.phi_groups;
    r = cluster % p.rho;
    split = cluster / p.rho;
  }

  // Calls work(expert, first tile, end) for the tiles of this split.
  template <class Work>
  __device__ __forceinline__ void for_spans(const Work& work) const {
    using Tiles = RoutedTiles<kBackwardTokens>;
    if constexpr (kRouted) {
      Tiles{p.rows}.for_spans(split, p.splits, work);
    } else {
      const auto tiles =
          static_cast<int>((p.tokens + kBackwardTokens - 1) / kBackwardTokens);
      work(
          0,
          Tiles::stretch(tiles, split, p.splits),
          Tiles::stretch(tiles, split + 1, p.splits));
    }
  }

  // A place in the ring of buffers, and the parity that says it has been filled
  // in this pass; the other one says that it is free for this pass.
  struct Ring {
    int slot = 0;
    uint32_t phase = 0;
    __device__ void next() {
      slot = slot + 1 == kBackwardBuffers ? 0 : slot + 1;
      phase ^= slot == 0 ? 1 : 0;
    }
  };

  // --- shared memory -------------------------------------------------------

  __device__ uint32_t barrier(int kind, int slot) const {
    return shared + static_cast<uint32_t>(
                        Tile::kBarriers + 8 * (kind * kBackwardBuffers + slot));
  }
  __device__ uint32_t loaded(int slot) const { return barrier(0, slot); }
  __device__ uint32_t read(int slot) const { return barrier(1, slot); }

  // The first side's places, then the second's.
  template <class Side>
  __device__ uint32_t core_of() const {
    return shared + static_cast<uint32_t>(
                        Tile::kCores + (Side::kIsX ? 0 : X::kCoreBytes));
  }
  template <class Side>
  __device__ uint32_t activations_of(int slot) const {
    return shared + static_cast<uint32_t>(
                        slot * Tile::kActivationBytes +
                        (Side::kIsX ? 0 : X::kActivationBytes));
  }
  template <class Side>
  __device__ uint32_t made_of(int slot) const {
    return shared + static_cast<uint32_t>(
                        Tile::kMade + slot * Tile::kMadeBytes +
                        (Side::kIsX ? 0 : X::kMadeBytes));
  }
  __device__ uint32_t gate_of(int slot, int token) const {
    return shared + static_cast<uint32_t>(
                        Tile::kGates + 4 * (slot * kBackwardTokens + token));
  }
  template <class Side>
  __device__ const BttBackwardParams::Side& params_of() const {
    if constexpr (Side::kIsX) {
      return p.x;
    } else {
      return p.dy;
    }
  }
  template <class Side>
  __device__ int first_own() const {
    return Side::kIsX ? first_gamma : first_phi;
  }
  template <class Side>
  __device__ int first_other() const {
    return Side::kIsX ? first_phi : first_gamma;
  }

  __device__ void init_barriers() const {
    if (threadIdx.x == 0) {
      for (int slot = 0; slot < kBackwardBuffers; ++slot) {
        ptx::barrier_init(loaded(slot), 1);
        ptx::barrier_init(read(slot), kReceivers * kBackwardWorkers);
      }
      ptx::barrier_init_fence();
    }
    ptx::cluster_sync();
  }
  // Blocks that this one's copies go to.
  static constexpr int kReceivers = Tile::kGammaRanks + Tile::kPhiRanks - 1;
  __device__ static uint32_t rank_of(int gammas, int phis) {
    return static_cast<uint32_t>(phis * Tile::kGammaRanks + gammas);
  }

  // By all workers, along what is contiguous in a core of the operator's own
  // layout. Reads many elements before it writes any, because each takes as
  // long as a trip to L2.
  template <class Side>
  __device__ void load_core(int expert) const {
    constexpr int kThreads = 32 * kBackwardWorkers;
    constexpr int kCount = Side::kCoreBytes / 2;
    constexpr int kBatch = kCount < 32 * kThreads ? kCount / kThreads : 32;
    static_assert(kCount % (kBatch * kThreads) == 0);
    const BttBackwardParams::Side& side = params_of<Side>();
    const __nv_bfloat16* from = side.core + expert * side.expert_stride +
                                first_own<Side>() * side.own_stride +
                                first_other<Side>() * side.other_stride +
                                r * side.rho_stride;
    const auto index = [](int i, int& own, int& row, int& other) {
      constexpr int kInner = Side::kIsX ? kBackwardOwn : Side::kRows;
      const int outer = i / kInner % (Side::kRows * kBackwardOwn / kInner);
      row = Side::kIsX ? outer : i % kInner;
      other = Side::kIsX ? i % kInner : outer;
      own = i / (Side::kRows * kBackwardOwn);
    };
#pragma unroll 1
    for (int first = static_cast<int>(threadIdx.x); first < kCount;
         first += kBatch * kThreads) {
      __nv_bfloat16 values[kBatch];
      int own;
      int row;
      int other;
#pragma unroll
      for (int n = 0; n < kBatch; ++n) {
        index(first + n * kThreads, own, row, other);
        values[n] = from
            [other * side.other_stride + row * side.row_stride +
             own * side.own_stride];
      }
#pragma unroll
      for (int n = 0; n < kBatch; ++n) {
        index(first + n * kThreads, own, row, other);
        ptx::store_shared_scalar(
            core_of<Side>() + Side::core(own, row, other / kVector) +
                static_cast<uint32_t>(other % kVector * 2),
            __bfloat16_as_ushort(values[n]));
      }
    }
  }

  // --- copies --------------------------------------------------------------

  // By one warp: of x the block brings its share of the rows, one a lane of the
  // first half, and of dy one a lane of the second.
  __device__ void run_copier() const {
    const bool is_x = lane < 16;
    const int ranks = is_x ? Tile::kPhiRanks : Tile::kGammaRanks;
    const int share = kBackwardTokens / ranks;
    const bool copies = lane % 16 < share;
    const int row = (is_x ? phi_rank : gamma_rank) * share + lane % share;
    const uint32_t to = is_x ? X::token(row) : Dy::token(row);
    uint32_t blocks = 0;
    for (int i = 0; i < ranks; ++i) {
      blocks |= 1U << (is_x ? rank_of(gamma_rank, i) : rank_of(i, phi_rank));
    }
    Ring buffer;
    for_spans([&](int expert, int begin, int end) {
#pragma unroll 1
      for (int tile = begin; tile < end; ++tile) {
        int token = tile * kBackwardTokens + row;
        float gate = 0.0F;
        if constexpr (kRouted) {
          const RoutedTiles<kBackwardTokens> tiles{p.rows};
          token = tiles.pair(expert, tile, row) / p.rows.active;
          const int pair = tiles.pair(expert, tile, lane % kBackwardTokens);
          gate = pair < p.rows.pairs ? p.gates[pair] : 0.0F;
        }
        ptx::barrier_wait(read(buffer.slot), buffer.phase ^ 1);
        if constexpr (kRouted) {
          if (lane < kBackwardTokens) {
            ptx::store_shared_float(gate_of(buffer.slot, lane), gate);
          }
          __syncwarp();
        }
        if (lane == 0) {
          ptx::barrier_expect(loaded(buffer.slot), Tile::kTileBytes);
        }
        __syncwarp();
        if (copies) {
          const uint32_t place = (is_x ? activations_of<X>(buffer.slot)
                                       : activations_of<Dy>(buffer.slot)) +
                                 to;
          const void* map = is_x ? &p.x.activations : &p.dy.activations;
          const int column = is_x ? first_gamma : first_phi;
          if constexpr (Tile::kCluster > 1) {
            ptx::tensor_load_multicast(
                place,
                map,
                column,
                0,
                token,
                loaded(buffer.slot),
                static_cast<uint16_t>(blocks));
          } else {
            ptx::tensor_load(place, map, column, 0, token, loaded(buffer.slot));
          }
        }
        buffer.next();
      }
    });
  }

  // By a worker's warp that will not read the slot any more.
  __device__ void give_back(int slot) const {
    __syncwarp();
    if (lane < kReceivers) {
      if constexpr (Tile::kCluster > 1) {
        // Itself, those of the same phis, those of the same gammas.
        const bool other_gamma = lane > 0 && lane < Tile::kGammaRanks;
        const bool other_phi = lane >= Tile::kGammaRanks;
        const uint32_t block = rank_of(
            other_gamma ? 1 - gamma_rank : gamma_rank,
            other_phi ? 1 - phi_rank : phi_rank);
        ptx::barrier_arrive_peer(ptx::peer_address(read(slot), block));
      } else {
        ptx::barrier_arrive(read(slot));
      }
    }
  }

  // --- products --------------------------------------------------------------

  __device__ static __forceinline__ uint32_t word(const uint4& v, int i) {
    return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
  }
  // Matrix i at two neighbours of depth, the first in the low half.
  __device__ static __forceinline__ uint32_t
  paired(int i, const uint4 (&v)[2]) {
    const uint32_t first = word(v[0], i / 2);
    const uint32_t second = word(v[1], i / 2);
    return i % 2 == 0 ? ptx::low_pair(first, second)
                      : ptx::high_pair(first, second);
  }

  // The 16 x 16 operands of eight matrices.
  struct Operands {
    uint4 v[2][2][2];  // [eight of depth][eight rows][odd depth]

    // Where this lane's (row lane / 4, depth 2 (lane % 4)) and its neighbour
    // of depth are, and how far eight rows and eight of depth are from them.
    __device__ __forceinline__ void load(
        const uint32_t (&from)[2], int eight_rows, int eight_deep) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        v[i / 4][i / 2 % 2][i % 2] = ptx::load_shared(
            from[i % 2] +
            static_cast<uint32_t>(i / 4 * eight_deep + i / 2 % 2 * eight_rows));
      }
    }
    __device__ __forceinline__ uint4 matrix(int i) const {
      return {
          paired(i, v[0][0]),
          paired(i, v[0][1]),
          paired(i, v[1][0]),
          paired(i, v[1][1])};
    }
  };

  __device__ static __forceinline__ void clear(Sums& sums) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        sums[i][j] = 0.0F;
      }
    }
  }

  // Lanes of ldmatrix: 16 of depth for one matrix, 16 for the next.
  __device__ int lane_matrix() const { return lane / 16; }
  __device__ int lane_deep() const { return lane % 16; }

  // Eight own and eight other indices: tokens x rows times rows x others.
  template <class Side>
  __device__ __forceinline__ void make(int unit, int slot) const {
    const int octet = unit / kBackwardOctets;
    const int others = unit % kBackwardOctets;
    uint32_t from[2];
#pragma unroll
    for (int odd = 0; odd < 2; ++odd) {
      from[odd] = activations_of<Side>(slot) +
                  Side::activation(octet, lane / 4, lane % 4 + 4 * odd);
    }
    const uint32_t weights =
        core_of<Side>() + Side::core(
                              octet * kVector + lane_matrix(),
                              alpha_of_depth(lane_deep()),
                              others);
    Sums sums;
    clear(sums);
#pragma unroll 1
    for (int step = 0; step < Side::kRows / 16; ++step) {
      Operands w;
      w.load(from, 4 * Side::kTokenBytes, 8 * 32);
#pragma unroll
      for (int i = 0; i < 8; i += 2) {
        uint32_t a0;
        uint32_t a1;
        uint32_t b0;
        uint32_t b1;
        ptx::load_matrix_transposed(
            weights + static_cast<uint32_t>(
                          (i * Side::kRows + step * 16) * kBackwardOctets * 16),
            a0,
            a1,
            b0,
            b1);
        ptx::mma(sums[i], w.matrix(i), a0, a1);
        ptx::mma(sums[i + 1], w.matrix(i + 1), b0, b1);
      }
      from[0] += 16 * 32;
      from[1] += 16 * 32;
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if constexpr (kRouted) {
        const float gate =
            ptx::load_shared_float(gate_of(slot, lane / 4 + 8 * half));
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          sums[i][2 * half] *= gate;
          sums[i][2 * half + 1] *= gate;
        }
      }
#pragma unroll
      for (int odd = 0; odd < 2; ++odd) {
        const int i = 2 * half + odd;
        ptx::store_shared(
            made_of<Side>(slot) + Side::made(
                                      octet,
                                      others * kVector + 2 * (lane % 4) + odd,
                                      lane / 4 + 8 * half),
            {ptx::round_pair(sums[0][i], sums[1][i]),
             ptx::round_pair(sums[2][i], sums[3][i]),
             ptx::round_pair(sums[4][i], sums[5][i]),
             ptx::round_pair(sums[6][i], sums[7][i])});
      }
    }
  }

  // The units of a warp share their octet and rows.
  template <class Side>
  struct Unit {
    int octet;
    int row_tile;
    int others;  // the first octet
    __device__ explicit Unit(int worker) {
      const int unit = worker * Side::kWarpUnits;
      others = unit % kBackwardOctets;
      row_tile = unit / kBackwardOctets % (Side::kRows / 16);
      octet = unit / kBackwardOctets / (Side::kRows / 16);
    }
  };

  // Rows x tokens times tokens x others; Opposite made the second.
  template <class Side, class Opposite>
  __device__ __forceinline__ void add(
      int worker, int slot, Sums (&sums)[Side::kWarpUnits]) const {
    if (worker * Side::kWarpUnits >= Side::kAddUnits) {
      return;
    }
    const Unit<Side> unit(worker);
    uint32_t from[2];
#pragma unroll
    for (int odd = 0; odd < 2; ++odd) {
      from[odd] =
          activations_of<Side>(slot) +
          Side::activation(
              unit.octet, lane % 4 + 4 * odd, unit.row_tile * 16 + lane / 4);
    }
    Operands w;
    // Eight rows further the swizzle is the same; so it is for eight tokens.
    w.load(from, 8 * 32, 4 * Side::kTokenBytes);
    // One ldmatrix brings two products' worth: one matrix of two units, or two
    // matrices of one.
    constexpr int kUnits = Side::kWarpUnits;
    static_assert(kUnits == 1 || kUnits == 2);
#pragma unroll
    for (int i = 0; i < 8; i += 3 - kUnits) {
      uint32_t a0;
      uint32_t a1;
      uint32_t b0;
      uint32_t b1;
      const int last = lane_matrix();
      ptx::load_matrix_transposed(
          made_of<Opposite>(slot) +
              Opposite::made(
                  unit.others + (kUnits == 2 ? last : 0),
                  unit.octet * kVector + i + (kUnits == 2 ? 0 : last),
                  alpha_of_depth(lane_deep())),
          a0,
          a1,
          b0,
          b1);
      const uint4 rows = w.matrix(i);
      ptx::mma(sums[0][i], rows, a0, a1);
      if constexpr (kUnits == 2) {
        ptx::mma(sums[1][i], rows, b0, b1);
      } else {
        ptx::mma(sums[0][i + 1], w.matrix(i + 1), b0, b1);
      }
    }
  }

  template <class Side>
  __device__ void store(
      int worker, int slot, const Sums (&sums)[Side::kWarpUnits]) const {
    const BttBackwardParams::Side& side = params_of<Side>();
    if (worker * Side::kWarpUnits >= Side::kAddUnits) {
      return;
    }
    const Unit<Side> unit(worker);
#pragma unroll
    for (int n = 0; n < Side::kWarpUnits; ++n) {
      const int other =
          first_other<Side>() + (unit.others + n) * kVector + 2 * (lane % 4);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int64_t own = static_cast<int64_t>(slot) * side.own +
                              first_own<Side>() + unit.octet * kVector + i;
          const int64_t row =
              own * Side::kRows + unit.row_tile * 16 + lane / 4 + 8 * half;
          *reinterpret_cast<float2*>(
              side.partials + (row * p.rho + r) * side.other + other) = {
              sums[n][i][2 * half], sums[n][i][2 * half + 1]};
        }
      }
    }
  }

  // Keeps the compiler from computing all addresses before the loop over
  // tiles: there is no room for them beside the sums.
  __device__ __forceinline__ void forget_addresses(int& worker) {
    asm volatile("" : "+r"(lane), "+r"(worker));
  }

  __device__ void run_worker(int worker) {
    constexpr int kThreads = 32 * kBackwardWorkers;
    Ring buffer;
    for_spans([&](int expert, int begin, int end) {
      // Nobody still reads the cores before: the last to do so was before the
      // last tile's barrier.
      load_core<X>(expert);
      load_core<Dy>(expert);
      ptx::named_barrier(1, kThreads);
      Sums x_sums[X::kWarpUnits];
      Sums dy_sums[Dy::kWarpUnits];
#pragma unroll
      for (int n = 0; n < X::kWarpUnits; ++n) {
        clear(x_sums[n]);
      }
#pragma unroll
      for (int n = 0; n < Dy::kWarpUnits; ++n) {
        clear(dy_sums[n]);
      }
#pragma unroll 1
      for (int tile = begin; tile < end; ++tile) {
        ptx::barrier_wait(loaded(buffer.slot), buffer.phase);
        forget_addresses(worker);
#pragma unroll 1
        for (int unit = worker; unit < X::kMakeUnits + Dy::kMakeUnits;
             unit += kBackwardWorkers) {
          if (unit < X::kMakeUnits) {
            make<X>(unit, buffer.slot);
          } else {
            make<Dy>(unit - X::kMakeUnits, buffer.slot);
          }
        }
        // z and dz have two buffers, so nobody overwrites what a slower warp
        // still adds up.
        ptx::named_barrier(1, kThreads);
        forget_addresses(worker);
        add<X, Dy>(worker, buffer.slot, x_sums);
        forget_addresses(worker);
        add<Dy, X>(worker, buffer.slot, dy_sums);
        give_back(buffer.slot);
        buffer.next();
      }
      store<X>(worker, split + expert, x_sums);
      store<Dy>(worker, split + expert, dy_sums);
    });
  }

  __device__ void run() {
    init_barriers();
    if (warp < kBackwardWorkers) {
      ptx::grow_registers<Tile::kWorkerRegisters>();
      run_worker(warp);
    } else {
      ptx::shrink_registers<Tile::kCopierRegisters>();
      if (warp == kBackwardWorkers) {
        run_copier();
      }
    }
    __syncwarp();
    ptx::cluster_sync();  // nobody leaves while others may still send to it
  }
};

template <class Tile, bool kRouted>
__global__ void __launch_bounds__(Tile::kThreads, 1)
    btt_backward_partials(const __grid_constant__ BttBackwardParams params) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ uint4 shared_tile[];
  BttBackward<Tile, kRouted> kernel(params, ptx::shared_address(shared_tile));
  kernel.run();
#endif
}

}  // namespace einforge::kernels::cuda
