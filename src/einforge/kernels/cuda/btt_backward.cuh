#pragma once

#include <cuda.h>

#include <algorithm>
#include <type_traits>

#include "einforge/kernels/cuda/btt_backward.h"
#include "einforge/kernels/cuda/btt_linear.h"
#include "einforge/kernels/cuda/btt_linear_layout.h"
#include "einforge/kernels/cuda/ptx_async.cuh"
#include "einforge/kernels/cuda/routed_tiles.cuh"

// The fused gradients of both cores; docs/design/btt_backward.md draws it.
//
// The two cores are two sides of one picture. Side x has activations x, rows
// alpha, `own` index gamma, `other` index phi, core A, and produces z; side dy
// has dy, epsilon, phi, gamma, core B, and produces dz:
//
//   z[t, own, other]          = sum_row activations[t, row, own] core[row, ..]
//   grad[row, own, other]     = sum_t activations[t, row, own] z'[t, ..]
//
// where z' is the other side's intermediate. A block takes 16 gammas, 16 phis
// and one r, keeps both cores in shared memory and both gradients in the
// registers of eight warps, and sweeps over its share of the tokens, 16 at a
// time, which another warp has copied. Between producing z and dz of a tile and
// adding to the gradients there is one barrier.
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
    int own;          // of the layer, where a block may have more of each
    int row;
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
  // has a contiguous chunk of all tiles; what it has of expert e goes to slot
  // split + e.
  RoutedRows rows;
  const float* gates;
  // Sums over tokens of dy, or null: (splits, blocks of a cluster that share
  // dy, epsilon, phi). Not of a mixture, nor by every kernel.
  float* bias;
};

inline constexpr int kBackwardOwn = 16;  // gammas, and phis, of a block
inline constexpr int kBackwardVectors = kBackwardOwn / kVector;
inline constexpr int kBackwardIntermediates = 2;  // buffers of z and dz
inline constexpr int kBackwardWorkers = 8;        // warps
inline constexpr int kMostShared = 227 * 1024;    // bytes a block can have

// What a block keeps of one side, and its index maps in shared memory.
enum class BttBackwardName { kX, kDy };
template <BttBackwardName kSideName, int kRowCount>
struct BttBackwardSide {
  static constexpr bool kIsX = kSideName == BttBackwardName::kX;
  static constexpr int kRows = kRowCount;
  static constexpr int kCoreBytes = kBackwardOwn * kRows * kBackwardOwn * 2;
  // Rows of 32 bytes in TMA's swizzle, even tokens first; odd ones
  // are 128 bytes out of step with them, so that their swizzle is the other.
  static constexpr int kTokenBytes = kRows * kBackwardOwn * 2;
  static constexpr int kOddTokens = kBackwardTokens / 2 * kTokenBytes + 128;
  static constexpr int kActivationBytes = 2 * kOddTokens;
  static constexpr int kIntermediateBytes =
      kBackwardVectors * kBackwardOwn * kBackwardTokens * 16;
  // Products of eight matrices each.
  static constexpr int kProduceUnits = kBackwardVectors * kBackwardVectors;
  static constexpr int kAddUnits =
      kBackwardVectors * (kRows / 16) * kBackwardVectors;
  static constexpr int kWarpUnits =
      kAddUnits > kBackwardWorkers ? kAddUnits / kBackwardWorkers : 1;
  static_assert(
      kAddUnits % kBackwardWorkers == 0 || kAddUnits < kBackwardWorkers);
  static_assert(kBackwardVectors % kWarpUnits == 0);     // they share rows
  static_assert(2 * kProduceUnits == kBackwardWorkers);  // half of them a side

  __device__ static uint32_t token(int token) {
    return static_cast<uint32_t>(
        token / 2 * kTokenBytes + token % 2 * kOddTokens);
  }
  // A 16-byte vector of a row. Reads of two tokens and the rows q, and reads
  // of rows 2 i and 2 i + 1 and the tokens q (but for pairs of tokens), q in 0
  // to 3, are bank-conflict-free.
  __device__ static uint32_t activation(int vector, int token, int row) {
    const int flip = (row / 4 ^ token) & 1;
    return BttBackwardSide::token(token) +
           static_cast<uint32_t>(
               (row * kBackwardVectors + (vector ^ flip)) * 16);
  }
  // (own, row, vector of the other index).
  __device__ static uint32_t core(int own, int row, int vector) {
    return static_cast<uint32_t>(
        ((own * kRows + row) * kBackwardVectors + (vector ^ (row / 4 & 1))) *
        16);
  }
  // (vector, other, token) vectors of z or dz.
  __device__ static uint32_t intermediate(int vector, int other, int token) {
    return static_cast<uint32_t>(
        ((vector * kBackwardOwn + other) * kBackwardTokens +
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
  // A warpgroup of which one warp copies, and one of a mixture's brings the
  // gates, gives its registers to the workers.
  static constexpr int kThreads = 32 * (kBackwardWorkers + 4);
  static constexpr int kCopierRegisters = 40;
  static constexpr int kWorkerRegisters = 232;
  // Where the sums leave registers for it, a warp reads the operands of a
  // product while it computes the one before.
  static constexpr bool kAhead = X::kWarpUnits + Dy::kWarpUnits < 4;
  // Shared memory: cores, intermediates, activations, barriers, gates.
  static constexpr int kActivationBytes =
      X::kActivationBytes + Dy::kActivationBytes;
  static constexpr int kIntermediate = X::kCoreBytes + Dy::kCoreBytes;
  static constexpr int kIntermediateBytes =
      X::kIntermediateBytes + Dy::kIntermediateBytes;
  static constexpr int kActivations =
      kIntermediate + kBackwardIntermediates * kIntermediateBytes;
  // Tiles that are on their way or at work, as many as there is room for.
  static constexpr int kSlotBytes = kActivationBytes + 2 * 8;
  static constexpr int kGateBytes =
      kBackwardIntermediates * 4 * kBackwardTokens;
  static constexpr int kAlign = 256;
  static constexpr int kBuffers = std::min(
      4, (kMostShared - kAlign - kGateBytes - kActivations) / kSlotBytes);
  static_assert(kBuffers >= 2);
  static constexpr int kBarriers = kActivations + kBuffers * kActivationBytes;
  static constexpr int kGates = kBarriers + kBuffers * 2 * 8;
  static constexpr int kSharedBytes = kGates + kGateBytes + kAlign;
  // What TMA brings to a block for a tile.
  static constexpr int kTileBytes =
      kBackwardTokens * (X::kTokenBytes + Dy::kTokenBytes);
  static_assert(X::kActivationBytes % 256 == 0);
  static_assert(Dy::kActivationBytes % 256 == 0);
};

// What a block works on, and where it stands in its cluster.
struct BttBackwardBlock {
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

  __device__ __forceinline__ BttBackwardBlock(
      const BttBackwardParams& params,
      uint32_t raw,
      int gamma_ranks,
      int phi_ranks)
      : p(params), shared((raw + 255) / 256 * 256) {
    lane = static_cast<int>(threadIdx.x) % 32;
    warp = ptx::warp_uniform(static_cast<int>(threadIdx.x) / 32);
    const int rank = ptx::warp_uniform(static_cast<int>(ptx::cluster_rank()));
    gamma_rank = rank % gamma_ranks;
    phi_rank = rank / gamma_ranks;
    // Clusters of the same tokens are neighbours, and share L2.
    int cluster = static_cast<int>(blockIdx.x) / (gamma_ranks * phi_ranks);
    first_gamma =
        (cluster % p.gamma_groups * gamma_ranks + gamma_rank) * kBackwardOwn;
    cluster /= p.gamma_groups;
    first_phi = (cluster % p.phi_groups * phi_ranks + phi_rank) * kBackwardOwn;
    cluster /= p.phi_groups;
    r = cluster % p.rho;
    split = cluster / p.rho;
  }

  // Calls work(expert, first tile, end) for the tiles of this split.
  template <bool kRouted, class Work>
  __device__ __forceinline__ void for_spans(const Work& work) const {
    using Tiles = RoutedTiles<kBackwardTokens>;
    if constexpr (kRouted) {
      Tiles{p.rows}.for_spans(split, p.splits, work);
    } else {
      const auto tiles =
          static_cast<int>((p.tokens + kBackwardTokens - 1) / kBackwardTokens);
      work(
          0,
          Tiles::chunk(tiles, split, p.splits),
          Tiles::chunk(tiles, split + 1, p.splits));
    }
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
};

// What the kernels multiply, eight matrices at a time.
struct BttBackwardProducts {
  using Sums = float[8][4];  // [matrix][fragment]

  // Matrix i at two neighbours of depth, the first in the low half.
  __device__ static __forceinline__ uint32_t
  paired(int i, const uint4 (&v)[2]) {
    const uint32_t first = ptx::word(v[0], i / 2);
    const uint32_t second = ptx::word(v[1], i / 2);
    return i % 2 == 0 ? ptx::low_pair(first, second)
                      : ptx::high_pair(first, second);
  }

  // The 16 x 16 operands of eight matrices.
  struct Operands {
    uint4 v[2][2][2];  // [8 of depth][8 rows][odd depth]

    // Where this lane's (row lane / 4, depth 2 (lane % 4)) and its neighbour
    // of depth are, and how far 8 rows and 8 of depth are from them.
    __device__ __forceinline__ void load(
        const uint32_t (&from)[2], int rows_of_8, int depth_of_8) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        v[i / 4][i / 2 % 2][i % 2] = ptx::load_shared(
            from[i % 2] +
            static_cast<uint32_t>(i / 4 * depth_of_8 + i / 2 % 2 * rows_of_8));
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
};

// With kRouted, for each expert of a mixture.
template <class Tile, bool kRouted>
struct BttBackward : BttBackwardBlock, BttBackwardProducts {
  using X = typename Tile::X;
  using Dy = typename Tile::Dy;

  __device__ BttBackward(const BttBackwardParams& params, uint32_t raw)
      : BttBackwardBlock(params, raw, Tile::kGammaRanks, Tile::kPhiRanks) {}

  // --- shared memory -------------------------------------------------------

  __device__ uint32_t barrier(int kind, int slot) const {
    return shared + static_cast<uint32_t>(
                        Tile::kBarriers + 8 * (kind * Tile::kBuffers + slot));
  }
  __device__ uint32_t loaded(int slot) const { return barrier(0, slot); }
  __device__ uint32_t read(int slot) const { return barrier(1, slot); }

  // The first side's places, then the second's.
  template <class Side>
  __device__ uint32_t core_of() const {
    return shared + static_cast<uint32_t>(Side::kIsX ? 0 : X::kCoreBytes);
  }
  template <class Side>
  __device__ uint32_t activations_of(int slot = 0) const {
    return shared + static_cast<uint32_t>(
                        Tile::kActivations + slot * Tile::kActivationBytes +
                        (Side::kIsX ? 0 : X::kActivationBytes));
  }
  template <class Side>
  __device__ uint32_t intermediate_of() const {
    return shared +
           static_cast<uint32_t>(
               Tile::kIntermediate + (Side::kIsX ? 0 : X::kIntermediateBytes));
  }
  __device__ uint32_t gate_of(int z_slot, int token) const {
    return shared + static_cast<uint32_t>(
                        Tile::kGates + 4 * (z_slot * kBackwardTokens + token));
  }
  __device__ void init_barriers() const {
    if (threadIdx.x == 0) {
      for (int slot = 0; slot < Tile::kBuffers; ++slot) {
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
  // layout: the other index in A, rows in B. Reads many vectors before it
  // writes any, because each takes as long as a trip to L2.
  template <class Side>
  __device__ void load_core(int expert) const {
    const BttBackwardParams::Side& side = params_of<Side>();
    const __nv_bfloat16* from = side.core + expert * side.expert_stride +
                                first_own<Side>() * side.own_stride +
                                first_other<Side>() * side.other_stride +
                                r * side.rho_stride;
    const int64_t inner = Side::kIsX ? side.other_stride : side.row_stride;
    const int64_t outer = Side::kIsX ? side.row_stride : side.other_stride;
    if (inner == 1 && outer % kVector == 0 && side.own_stride % kVector == 0 &&
        side.row % kVector == 0 &&
        reinterpret_cast<uintptr_t>(from) % 16 == 0) {
      load_core<Side, kVector>(from, inner, outer, side.own_stride);
    } else {
      load_core<Side, 1>(from, inner, outer, side.own_stride);
    }
  }
  // By elements or by vectors of eight.
  template <class Side, int kWidth>
  __device__ __forceinline__ void load_core(
      const __nv_bfloat16* from,
      int64_t inner_stride,
      int64_t outer_stride,
      int64_t own_stride) const {
    using Value = std::conditional_t<kWidth == 1, uint16_t, uint4>;
    constexpr int kThreads = 32 * kBackwardWorkers;
    constexpr int kCount = Side::kCoreBytes / 2 / kWidth;
    constexpr int kBatch = std::min(kCount / kThreads, 32 / kWidth * 2);
    static_assert(kCount % (kBatch * kThreads) == 0);
    constexpr int kInner = (Side::kIsX ? kBackwardOwn : Side::kRows) / kWidth;
    constexpr int kOuter = Side::kIsX ? Side::kRows : kBackwardOwn;
    const BttBackwardParams::Side& side = params_of<Side>();
    const int owns = side.own - first_own<Side>();
    const int others = side.other - first_other<Side>();
    const int inners = Side::kIsX ? others : side.row;
    const int outers = Side::kIsX ? side.row : others;
    struct Place {
      int in;
      int out;
      int own;
    };
    const auto place_of = [](int i) {
      return Place{
          i % kInner * kWidth, i / kInner % kOuter, i / kInner / kOuter};
    };
#pragma unroll 1
    for (int first = static_cast<int>(threadIdx.x); first < kCount;
         first += kBatch * kThreads) {
      Value values[kBatch];
#pragma unroll
      for (int n = 0; n < kBatch; ++n) {
        const auto [in, out, own] = place_of(first + n * kThreads);
        values[n] = Value{};
        if (in < inners && out < outers && own < owns) {
          values[n] = *reinterpret_cast<const Value*>(
              from + in * inner_stride + out * outer_stride + own * own_stride);
        }
      }
#pragma unroll
      for (int n = 0; n < kBatch; ++n) {
        const auto [in, out, own] = place_of(first + n * kThreads);
        if constexpr (kWidth == 1) {
          store_weight<Side>(own, in, out, values[n]);
        } else if constexpr (Side::kIsX) {
          ptx::store_shared(
              core_of<Side>() + Side::core(own, out, in / kVector), values[n]);
        } else {
#pragma unroll
          for (int j = 0; j < kWidth; ++j) {
            store_weight<Side>(
                own,
                in + j,
                out,
                static_cast<uint16_t>(
                    ptx::word(values[n], j / 2) >> (j % 2 * 16)));
          }
        }
      }
    }
  }
  template <class Side>
  __device__ __forceinline__ void store_weight(
      int own, int inner, int outer, uint16_t value) const {
    const int row = Side::kIsX ? outer : inner;
    const int other = Side::kIsX ? inner : outer;
    ptx::store_shared_scalar(
        core_of<Side>() + Side::core(own, row, other / kVector) +
            static_cast<uint32_t>(other % kVector * 2),
        value);
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
    ptx::Ring<Tile::kBuffers> buffer(1);
    for_spans<kRouted>([&](int expert, int begin, int end) {
#pragma unroll 1
      for (int tile = begin; tile < end; ++tile) {
        int token = tile * kBackwardTokens + row;
        if constexpr (kRouted) {
          const RoutedTiles<kBackwardTokens> tiles{p.rows};
          token = tiles.pair(expert, tile, row) / p.rows.active;
        }
        ptx::barrier_wait(read(buffer.slot), buffer.phase);
        if (lane == 0) {
          ptx::barrier_expect(loaded(buffer.slot), Tile::kTileBytes);
        }
        __syncwarp();
        if (copies) {
          const uint32_t place = (is_x ? activations_of<X>(buffer.slot)
                                       : activations_of<Dy>(buffer.slot)) +
                                 to;
          ptx::tensor_load_multicast(
              place,
              is_x ? &p.x.activations : &p.dy.activations,
              is_x ? first_gamma : first_phi,
              0,
              token,
              loaded(buffer.slot),
              static_cast<uint16_t>(blocks));
        }
        buffer.next();
      }
    });
  }

  // Barrier of the workers, and of a mixture's warp that brings the gates.
  __device__ static void sync_workers() {
    ptx::named_barrier(1, 32 * (kBackwardWorkers + (kRouted ? 1 : 0)));
  }

  // By one warp: the gates of a tile, zero past the expert's rows, before the
  // workers' barrier ahead of it. Those that it writes over were read before
  // the barrier before.
  __device__ void run_gates() const {
    const RoutedTiles<kBackwardTokens> tiles{p.rows};
    for_spans<kRouted>([&](int expert, int begin, int end) {
      const auto load = [&](int tile) {
        const int pair = tiles.pair(expert, tile, lane % kBackwardTokens);
        return pair < p.rows.pairs ? __ldg(p.gates + pair) : 0.0F;
      };
      float gate = load(begin);
      int z_slot = 0;
#pragma unroll 1
      for (int tile = begin; tile < end; ++tile) {
        if (lane < kBackwardTokens) {
          ptx::store_shared_float(gate_of(z_slot, lane), gate);
        }
        if (tile + 1 < end) {
          gate = load(tile + 1);
        }
        sync_workers();
        z_slot ^= 1;
      }
      sync_workers();  // the last tile is there
    });
  }

  // By a worker's warp that will not read the slot any more.
  __device__ void give_back(int slot) const {
    __syncwarp();
    if (lane < kReceivers) {
      // Itself, those of the same phis, those of the same gammas.
      const bool other_gamma = lane > 0 && lane < Tile::kGammaRanks;
      const bool other_phi = lane >= Tile::kGammaRanks;
      const uint32_t block = rank_of(
          other_gamma ? 1 - gamma_rank : gamma_rank,
          other_phi ? 1 - phi_rank : phi_rank);
      ptx::barrier_arrive_peer(ptx::peer_address(read(slot), block));
    }
  }

  // --- products --------------------------------------------------------------

  // What a warp produces: 8 own and 8 other indices.
  template <class Side>
  struct ProduceUnit {
    int vector;
    int others;
    __device__ explicit ProduceUnit(int worker)
        : vector(worker % Side::kProduceUnits / kBackwardVectors),
          others(worker % kBackwardVectors) {}
  };
  // What it adds to: units that share their vector and rows.
  template <class Side>
  struct AddUnit {
    int vector;
    int row_tile;
    int others;  // the first vector
    __device__ explicit AddUnit(int worker) {
      const int unit = worker * Side::kWarpUnits % Side::kAddUnits;
      others = unit % kBackwardVectors;
      row_tile = unit / kBackwardVectors % (Side::kRows / 16);
      vector = unit / kBackwardVectors / (Side::kRows / 16);
    }
    __device__ static bool exists(int worker) {
      return worker * Side::kWarpUnits < Side::kAddUnits;
    }
  };

  // Where a lane of a warp that produces for side Producer reads and writes, in
  // buffer 0. Known once for all tiles, and all else is a constant away.
  template <class Producer>
  struct Places {
    uint32_t tokens[2];  // to produce: tokens x rows, at an even and an odd row
    uint32_t core;
    uint32_t to[2];
    uint32_t x_rows[2];  // to add: rows x tokens
    uint32_t dy_rows[2];
    uint32_t z;  // the other side's
    uint32_t dz;

    __device__ Places(const BttBackward& b, int worker) {
      const ProduceUnit<Producer> unit(worker);
      const int lane = b.lane;
      core = b.core_of<Producer>() + Producer::core(
                                         unit.vector * kVector + lane / 16,
                                         alpha_of_depth(lane % 16),
                                         unit.others);
#pragma unroll
      for (int odd = 0; odd < 2; ++odd) {
        tokens[odd] =
            b.activations_of<Producer>() +
            Producer::activation(unit.vector, lane / 4, lane % 4 + 4 * odd);
        to[odd] = b.intermediate_of<Producer>() +
                  Producer::intermediate(
                      unit.vector,
                      unit.others * kVector + lane % 4 * 2 + odd,
                      lane / 4);
      }
      rows<X>(b, worker, x_rows);
      rows<Dy>(b, worker, dy_rows);
      dz = intermediate<X, Dy>(b, worker);
      z = intermediate<Dy, X>(b, worker);
    }
    template <class Side>
    __device__ static void rows(
        const BttBackward& b, int worker, uint32_t (&from)[2]) {
      const AddUnit<Side> unit(worker);
#pragma unroll
      for (int odd = 0; odd < 2; ++odd) {
        from[odd] =
            b.activations_of<Side>() + Side::activation(
                                           unit.vector,
                                           b.lane % 4 + 4 * odd,
                                           unit.row_tile * 16 + b.lane / 4);
      }
    }
    // One ldmatrix brings two products' worth: one matrix of two units, or two
    // matrices of one.
    template <class Side, class Opposite>
    __device__ static uint32_t intermediate(const BttBackward& b, int worker) {
      constexpr bool kTwo = Side::kWarpUnits == 2;
      const AddUnit<Side> unit(worker);
      const int last = b.lane / 16;
      return b.intermediate_of<Opposite>() +
             Opposite::intermediate(
                 unit.others + (kTwo ? last : 0),
                 unit.vector * kVector + (kTwo ? 0 : last),
                 alpha_of_depth(b.lane % 16));
    }
  };

  // Tokens x rows times rows x others. Where operands are read ahead, `w` has
  // those of the first step, and next() is called before the last products.
  template <class Side, class Next>
  __device__ __forceinline__ void produce(
      const Places<Side>& at,
      int slot,
      int z_slot,
      Operands& w,
      const Next& next) const {
    Sums sums;
    clear(sums);
    const auto multiply = [&](int step, const Operands& tokens) {
#pragma unroll
      for (int i = 0; i < 8; i += 2) {
        uint32_t a0;
        uint32_t a1;
        uint32_t b0;
        uint32_t b1;
        ptx::load_matrix_transposed(
            at.core +
                static_cast<uint32_t>(
                    (i * Side::kRows + step * 16) * kBackwardVectors * 16),
            a0,
            a1,
            b0,
            b1);
        ptx::mma(sums[i], tokens.matrix(i), a0, a1);
        ptx::mma(sums[i + 1], tokens.matrix(i + 1), b0, b1);
      }
    };
    constexpr int kSteps = Side::kRows / 16;
    if constexpr (Tile::kAhead) {
      Operands ahead[2];
      ahead[0] = w;
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        if (step + 1 < kSteps) {
          load_tokens<Side>(at, slot, step + 1, ahead[(step + 1) % 2]);
        } else {
          next();
        }
        multiply(step, ahead[step % 2]);
      }
    } else {
#pragma unroll 1
      for (int step = 0; step < kSteps; ++step) {
        load_tokens<Side>(at, slot, step, w);
        multiply(step, w);
      }
    }
    const auto buffer =
        static_cast<uint32_t>(z_slot * Tile::kIntermediateBytes);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if constexpr (kRouted) {
        const float gate =
            ptx::load_shared_float(gate_of(z_slot, lane / 4 + 8 * half));
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
            at.to[odd] + buffer + static_cast<uint32_t>(half * 8 * 16),
            {ptx::round_pair(sums[0][i], sums[1][i]),
             ptx::round_pair(sums[2][i], sums[3][i]),
             ptx::round_pair(sums[4][i], sums[5][i]),
             ptx::round_pair(sums[6][i], sums[7][i])});
      }
    }
  }
  template <class Side>
  __device__ __forceinline__ void load_tokens(
      const Places<Side>& at, int slot, int step, Operands& w) const {
    const auto offset =
        static_cast<uint32_t>(slot * Tile::kActivationBytes + step * 16 * 32);
    w.load(
        {at.tokens[0] + offset, at.tokens[1] + offset},
        4 * Side::kTokenBytes,
        8 * 32);
  }
  template <class Side>
  __device__ __forceinline__ void load_rows(
      const uint32_t (&from)[2], int slot, Operands& w) const {
    const auto offset = static_cast<uint32_t>(slot * Tile::kActivationBytes);
    // 8 rows further the swizzle is the same; so it is for 8 tokens.
    w.load({from[0] + offset, from[1] + offset}, 8 * 32, 4 * Side::kTokenBytes);
  }

  // Rows x tokens times tokens x others; the second is the other side's.
  template <class Side>
  __device__ __forceinline__ void add(
      uint32_t z,
      int z_slot,
      const Operands& w,
      Sums (&sums)[Side::kWarpUnits]) const {
    constexpr int kUnits = Side::kWarpUnits;
    static_assert(kUnits == 1 || kUnits == 2);
    z += static_cast<uint32_t>(z_slot * Tile::kIntermediateBytes);
#pragma unroll
    for (int i = 0; i < 8; i += 3 - kUnits) {
      uint32_t a0;
      uint32_t a1;
      uint32_t b0;
      uint32_t b1;
      // The own index i further, which also swizzles the places of the tokens.
      ptx::load_matrix_transposed(
          (z ^ static_cast<uint32_t>(i * 16)) +
              static_cast<uint32_t>(i * kBackwardTokens * 16),
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
    if (!AddUnit<Side>::exists(worker)) {
      return;
    }
    const AddUnit<Side> unit(worker);
    const int own = first_own<Side>() + unit.vector * kVector;
#pragma unroll
    for (int n = 0; n < Side::kWarpUnits; ++n) {
      const int other =
          first_other<Side>() + (unit.others + n) * kVector + 2 * (lane % 4);
      if (own >= side.own || other >= side.other) {
        continue;
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = unit.row_tile * 16 + lane / 4 + 8 * half;
        if (row >= side.row) {
          continue;
        }
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          const int64_t line =
              (static_cast<int64_t>(slot) * side.own + own + i) * side.row +
              row;
          *reinterpret_cast<float2*>(
              side.partials + (line * p.rho + r) * side.other + other) = {
              sums[n][i][2 * half], sums[n][i][2 * half + 1]};
        }
      }
    }
  }

  // The tiles of a span, by a warp that produces units of one side and adds to
  // both gradients. Between two barriers it adds a tile and produces the next.
  template <class Producer>
  __device__ __forceinline__ void sweep(
      int worker,
      int count,
      ptx::Ring<Tile::kBuffers>& buffer,
      Sums (&x_sums)[X::kWarpUnits],
      Sums (&dy_sums)[Dy::kWarpUnits]) const {
    const Places<Producer> at(*this, worker);
    int z_slot = 0;
    Operands x;
    Operands dy;
    Operands tokens;
    const auto wait = [&] {
      ptx::barrier_wait(loaded(buffer.slot), buffer.phase);
      if constexpr (Tile::kAhead) {
        load_tokens<Producer>(at, buffer.slot, 0, tokens);
      }
    };
    const auto produce_tile = [&] {
      produce<Producer>(at, buffer.slot, z_slot, tokens, [&] {
        load_rows<X>(at.x_rows, buffer.slot, x);
      });
      // z and dz have two buffers, so nobody overwrites what a slower warp
      // still sums.
      sync_workers();
    };
    wait();
    produce_tile();
#pragma unroll 1
    for (; count > 0; --count) {
      const int slot = buffer.slot;
      buffer.next();
      if constexpr (Tile::kAhead) {
        load_rows<Dy>(at.dy_rows, slot, dy);
      } else {
        load_rows<X>(at.x_rows, slot, x);
      }
      if (AddUnit<X>::exists(worker)) {
        add<X>(at.dz, z_slot, x, x_sums);
      }
      if constexpr (Tile::kAhead) {
        if (count > 1) {
          wait();
        }
      } else {
        load_rows<Dy>(at.dy_rows, slot, dy);
      }
      if (AddUnit<Dy>::exists(worker)) {
        add<Dy>(at.z, z_slot, dy, dy_sums);
      }
      give_back(slot);
      if constexpr (!Tile::kAhead) {
        if (count > 1) {
          wait();
        }
      }
      z_slot ^= 1;
      if (count > 1) {
        produce_tile();
      }
    }
  }

  __device__ void run_worker(int worker) {
    ptx::Ring<Tile::kBuffers> buffer(0);
    for_spans<kRouted>([&](int expert, int begin, int end) {
      // Nobody still reads the cores before: the last to do so was before the
      // last tile's barrier.
      load_core<X>(expert);
      load_core<Dy>(expert);
      sync_workers();
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
      if (begin < end) {
        if (worker < X::kProduceUnits) {
          sweep<X>(worker, end - begin, buffer, x_sums, dy_sums);
        } else {
          sweep<Dy>(worker, end - begin, buffer, x_sums, dy_sums);
        }
      }
      store<X>(worker, split + expert, x_sums);
      store<Dy>(worker, split + expert, dy_sums);
    });
  }

  __device__ void run() {
    init_barriers();
    ptx::grid_dependency_sync();
    if (warp < kBackwardWorkers) {
      ptx::setmaxnreg_inc<Tile::kWorkerRegisters>();
      run_worker(warp);
    } else {
      ptx::setmaxnreg_dec<Tile::kCopierRegisters>();
      if (warp == kBackwardWorkers) {
        run_copier();
      } else if (kRouted && warp == kBackwardWorkers + 1) {
        run_gates();
      }
    }
    __syncwarp();
    ptx::cluster_sync();  // nobody leaves while others may still send to it
  }
};

template <class Tile, bool kRouted>
__global__ void __launch_bounds__(Tile::kThreads, 1) btt_backward_partials_sm90(
    const __grid_constant__ BttBackwardParams params) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ uint4 shared_tile[];
  BttBackward<Tile, kRouted> kernel(params, ptx::shared_address(shared_tile));
  kernel.run();
#endif
}

}  // namespace einforge::kernels::cuda
