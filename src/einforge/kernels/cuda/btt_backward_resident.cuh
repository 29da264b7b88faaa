#pragma once

#include <cuda.h>

#include <algorithm>
#include <type_traits>

#include "einforge/kernels/cuda/btt_backward.cuh"
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
// and one r and sweeps over its share of the tokens, 16 at a time, which one
// warp copies. Producers keep a side's core in registers and write z or dz to a
// ring in shared memory; adders keep a gradient in registers and read it there.
// Nobody waits for anybody else: barriers in shared memory say what is full and
// what is empty.
//
// A cluster is kGammaRanks such blocks of gammas by kPhiRanks of phis, two each
// where the layer has them: a block brings half of the tokens' x and dy, to
// itself and to the block that shares them.
//
// In every product eight neighbours of the own index, which lie side by side in
// memory, are eight independent matrices: one 16-byte read gives a lane its
// element of all eight, and PRMT pairs two along the depth.
namespace einforge::kernels::cuda {

// Lanes of a warp that arrive at a barrier for it. Racecheck only follows
// threads that arrive for themselves, so there all do.
#ifdef EINFORGE_RACECHECK
inline constexpr int kBackwardLanes = 32;
#else
inline constexpr int kBackwardLanes = 1;
#endif

// What a block keeps of one side, and its index maps in shared memory.
template <BttBackwardName kSideName, int kRowCount>
struct BttResidentGradSide {
  static constexpr bool kIsX = kSideName == BttBackwardName::kX;
  static constexpr int kRows = kRowCount;
  // One warp adds to a vector of the own index and up to 32 rows.
  static constexpr int kRowTiles = std::min(kRows, 32) / 16;  // of an adder
  static constexpr int kAdders = kBackwardVectors * (kRows / 16 / kRowTiles);
  // Rows are 32 bytes and tokens an odd number of lines of 128 bytes apart, so
  // that TMA's swizzle differs between odd and even ones.
  static constexpr int kRowsBytes = kRows * kBackwardOwn * 2;
  static constexpr int kTokenBytes = kRowsBytes + 128;
  static constexpr int kActivationBytes = kBackwardTokens * kTokenBytes;
  static_assert(kTokenBytes / 128 % 2 == 1 && kActivationBytes % 256 == 0);

  // A 16-byte vector of a row.
  __device__ static uint32_t activation(int vector, int token, int row) {
    const int flip = (row / 4 ^ token) & 1;
    return static_cast<uint32_t>(
        token * kTokenBytes + (row * kBackwardVectors + (vector ^ flip)) * 16);
  }
  // The token at a place of the products' 16. Reads of places 2 i and 2 i + 1
  // and the rows q are free of bank conflicts, those of rows 2 i and 2 i + 1
  // and the places 2 q (or 2 q + 1) conflict in pairs, q in 0 to 3.
  __device__ static int token_at(int place) { return place ^ (place / 2 & 1); }
  static constexpr int kHalfBytes = 8 * kTokenBytes;  // eight places further
  // Eight tokens of z or dz.
  __device__ static uint32_t intermediate(int own, int other, int half) {
    return static_cast<uint32_t>(
        ((other * 2 + half) * kBackwardOwn + (own ^ (other & 7))) * 16);
  }
};

template <
    int kAlphaSize,
    int kEpsilonSize,
    int kGammaRankCount,
    int kPhiRankCount>
struct BttResidentGradTile {
  static constexpr int kGammaRanks = kGammaRankCount;
  static constexpr int kPhiRanks = kPhiRankCount;
  static constexpr int kCluster = kGammaRanks * kPhiRanks;
  using X = BttResidentGradSide<BttBackwardName::kX, kAlphaSize>;
  using Dy = BttResidentGradSide<BttBackwardName::kDy, kEpsilonSize>;
  // Warpgroups: where one side has 64 rows, its adders, then its producers and
  // the other side's adders, then that one's producers; else all producers,
  // then all adders. Of the third warpgroup two warps copy, one for each side.
  static constexpr bool kMixed = X::kRows == 64 || Dy::kRows == 64;
  using Large = std::conditional_t<X::kRows == 64, X, Dy>;
  using Small = std::conditional_t<X::kRows == 64, Dy, X>;
  static_assert(Small::kRows <= 32);
  static constexpr int kThreads = 3 * 128;
  static constexpr int kProducers = kBackwardVectors;  // of a side
  // Warps that read tiles.
  static constexpr int kWorkers = 2 * kProducers + X::kAdders + Dy::kAdders;
  // Whether the last two warps of the third warpgroup can sum dy.
  static constexpr bool kSumsBias = !kMixed;
  static constexpr int kBiasWarps = kBackwardVectors;
  // Shared memory: intermediates, activations, barriers, gates, and where each
  // producer's core comes by, 32 rows of 16 others at a time.
  static constexpr int kStageBytes = 32 * kBackwardOwn * 2;
  static constexpr int kActivationBytes =
      X::kActivationBytes + Dy::kActivationBytes;
  static constexpr int kIntermediateBytes =
      2 * kBackwardOwn * kBackwardOwn * kBackwardTokens * 2;
  static constexpr int kIntermediates = 3;  // buffers
  static constexpr int kActivations = kIntermediates * kIntermediateBytes;
  static constexpr int kIntermediateBarriers = 4 * kIntermediates * 8;
  // Tiles that are on their way or at work, as many as there is room for.
  static constexpr int kSlotBytes =
      kActivationBytes + 2 * 8 + 4 * kBackwardTokens;
  static constexpr int kAlign = 256;
  static constexpr int kStages = 2 * kProducers * kStageBytes;
  static constexpr int kBuffers = std::min(
      4,
      (kMostShared - kAlign - kIntermediateBarriers - kStages - kActivations) /
          kSlotBytes);
  static_assert(kBuffers >= 2);
  static constexpr int kBarriers = kActivations + kBuffers * kActivationBytes;
  static constexpr int kGates =
      kBarriers + kBuffers * 2 * 8 + kIntermediateBarriers;
  static constexpr int kStage =
      (kGates + kBuffers * 4 * kBackwardTokens + 127) / 128 * 128;
  static constexpr int kSharedBytes = kStage + kStages + kAlign;
};

// With kRouted, for each expert of a mixture.
template <class Tile, bool kRouted>
struct BttResidentGrad : BttBackwardBlock, BttBackwardProducts {
  using X = typename Tile::X;
  using Dy = typename Tile::Dy;
  template <class Side>
  using Opposite = std::conditional_t<Side::kIsX, Dy, X>;

  __device__ BttResidentGrad(const BttBackwardParams& params, uint32_t raw)
      : BttBackwardBlock(params, raw, Tile::kGammaRanks, Tile::kPhiRanks) {}

  // --- shared memory -------------------------------------------------------

  __device__ uint32_t barrier(int kind, int slot) const {
    return shared + static_cast<uint32_t>(
                        Tile::kBarriers + 8 * (kind * Tile::kBuffers + slot));
  }
  __device__ uint32_t loaded(int slot) const { return barrier(0, slot); }
  __device__ uint32_t read(int slot) const { return barrier(1, slot); }

  // Of a side's z or dz.
  template <class Side>
  __device__ uint32_t made(int z_slot) const {
    return barrier(2, 0) +
           static_cast<uint32_t>(
               8 * (z_slot + (Side::kIsX ? 0 : Tile::kIntermediates)));
  }
  template <class Side>
  __device__ uint32_t used(int z_slot) const {
    return made<Side>(z_slot + 2 * Tile::kIntermediates);
  }

  // The first side's places, then the second's.
  template <class Side>
  __device__ uint32_t activations_of(int slot = 0) const {
    return shared + static_cast<uint32_t>(
                        Tile::kActivations + slot * Tile::kActivationBytes +
                        (Side::kIsX ? 0 : X::kActivationBytes));
  }
  template <class Side>
  __device__ uint32_t intermediate_of() const {
    return shared +
           static_cast<uint32_t>(Side::kIsX ? 0 : Tile::kIntermediateBytes / 2);
  }
  __device__ uint32_t gate_of(int slot, int token) const {
    return shared + static_cast<uint32_t>(
                        Tile::kGates + 4 * (slot * kBackwardTokens + token));
  }
  __device__ void init_barriers() const {
    if (threadIdx.x == 0) {
      for (int slot = 0; slot < Tile::kBuffers; ++slot) {
        ptx::barrier_init(loaded(slot), 2 + (kRouted ? kBackwardLanes : 0));
        ptx::barrier_init(
            read(slot),
            kReceivers *
                (Tile::kWorkers + (sums_bias() ? Tile::kBiasWarps : 0)));
      }
      for (int slot = 0; slot < Tile::kIntermediates; ++slot) {
        ptx::barrier_init(made<X>(slot), kBackwardLanes * Tile::kProducers);
        ptx::barrier_init(used<X>(slot), kBackwardLanes * Dy::kAdders);
        ptx::barrier_init(made<Dy>(slot), kBackwardLanes * Tile::kProducers);
        ptx::barrier_init(used<Dy>(slot), kBackwardLanes * X::kAdders);
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

  // --- copies --------------------------------------------------------------

  // By a warp for each side: the block's share of a tile's tokens, one a lane,
  // to all blocks that share them. Of a mixture dy's also brings the gates,
  // zero past the expert's rows, a tile's 16 by the upper lanes.
  template <class Side>
  static constexpr int kShare =
      kBackwardTokens / (Side::kIsX ? Tile::kPhiRanks : Tile::kGammaRanks);
  template <class Side>
  __device__ int first_token() const {  // of the share
    return kShare<Side> * (Side::kIsX ? phi_rank : gamma_rank);
  }
  template <class Side>
  __device__ void run_copier() const {
    constexpr bool kGates = kRouted && !Side::kIsX;
    const RoutedTiles<kBackwardTokens> tiles{p.rows};
    const bool copies = lane < kShare<Side>;
    const int token =
        lane < 16 ? first_token<Side>() + lane % kShare<Side> : lane - 16;
    const uint32_t to = activations_of<Side>() +
                        static_cast<uint32_t>(token * Side::kTokenBytes);
    uint32_t blocks = 0;
    for (int i = 0; i < kBackwardTokens / kShare<Side>; ++i) {
      blocks |=
          1U << (Side::kIsX ? rank_of(gamma_rank, i) : rank_of(i, phi_rank));
    }
    ptx::Ring<Tile::kBuffers> buffer(1);
    for_spans<kRouted>([&](int expert, int begin, int end) {
      const auto row_of = [&](int tile) {  // of x and dy, times those active
        if constexpr (kRouted) {
          return tiles.pair(expert, tile, token);
        } else {
          return tile * kBackwardTokens + token;
        }
      };
      int next = row_of(begin);
#pragma unroll 1
      for (int tile = begin; tile < end; ++tile) {
        int row = next;
        if (tile + 1 < end) {
          next = row_of(tile + 1);
        }
        float gate = 0.0F;
        if constexpr (kRouted) {
          if (kGates && lane >= 16 && row < p.rows.pairs) {
            gate = __ldg(p.gates + row);
          }
          row /= p.rows.active;
        }
        ptx::barrier_wait(read(buffer.slot), buffer.phase);
        if (lane == 0) {
          ptx::barrier_expect(
              loaded(buffer.slot), kBackwardTokens * Side::kRowsBytes);
        }
        __syncwarp();
        if (copies) {
          ptx::tensor_load_multicast(
              to + static_cast<uint32_t>(buffer.slot * Tile::kActivationBytes),
              &params_of<Side>().activations,
              first_own<Side>(),
              0,
              row,
              loaded(buffer.slot),
              static_cast<uint16_t>(blocks));
        }
        if constexpr (kGates) {
          if (lane >= 16) {
            ptx::store_shared_float(gate_of(buffer.slot, token), gate);
          }
          arrive(loaded(buffer.slot));
        }
        buffer.next();
      }
    });
  }

  // Whether this cluster sums dy: one of those that read it.
  __device__ bool sums_bias() const {
    return Tile::kSumsBias && !kRouted && p.bias != nullptr && r == 0 &&
           first_gamma < Tile::kGammaRanks * kBackwardOwn;
  }
  // By a warp: sums over the tokens that this block brings.
  __device__ __forceinline__ void run_bias(int bias_warp) const {
    static_assert(Dy::kRows <= 32);
    const int row = lane % Dy::kRows;
    float sums[8] = {};
    ptx::Ring<Tile::kBuffers> buffer(0);
    for_spans<kRouted>([&](int /*expert*/, int begin, int end) {
#pragma unroll 1
      for (int tile = begin; tile < end; ++tile) {
        ptx::barrier_wait(loaded(buffer.slot), buffer.phase);
#pragma unroll 2
        for (int i = 0; i < kShare<Dy>; ++i) {
          const uint4 values = ptx::load_shared(
              activations_of<Dy>(buffer.slot) +
              Dy::activation(bias_warp, first_token<Dy>() + i, row));
#pragma unroll
          for (int j = 0; j < 8; j += 2) {
            ptx::add_pair(sums[j], sums[j + 1], ptx::word(values, j / 2));
          }
        }
        give_back(buffer.slot);
        buffer.next();
      }
    });
    const int phi = first_phi + bias_warp * kVector;
    if (lane < p.dy.row && lane < Dy::kRows && phi < p.dy.own) {
      const int line = split * Tile::kGammaRanks + gamma_rank;
      auto* to = reinterpret_cast<float4*>(
          p.bias + (static_cast<int64_t>(line) * p.dy.row + lane) * p.dy.own +
          phi);
      to[0] = {sums[0], sums[1], sums[2], sums[3]};
      to[1] = {sums[4], sums[5], sums[6], sums[7]};
    }
  }

  // By a warp that is done with what a barrier of this block guards.
  __device__ void arrive(uint32_t barrier) const {
    __syncwarp();
    if (lane < kBackwardLanes) {
      ptx::barrier_arrive(barrier);
    }
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

  // The core of 8 own and 16 other indices, as operands of 16 others by 16 rows
  // in registers.
  template <class Side>
  using Weights = uint4[Side::kRows / 16][8];

  // Where a weight stands in a producer's stage: rows of 16 others of A, and of
  // up to 32 rows of B, as they are contiguous in memory. Depth goes over the
  // rows in the order in which four lanes read neighbours of x or dy
  // (alpha_of_depth()); in B it is along the vectors, so there they have it.
  template <class Side>
  __device__ static uint32_t staged(int row, int other) {
    if constexpr (Side::kIsX) {
      return static_cast<uint32_t>(
          (row * 2 + (other / 8 ^ (row / 4 & 1))) * 16 + other % 8 * 2);
    } else {
      return static_cast<uint32_t>(
          (other * 4 + (row / 8 ^ (other / 2 & 3))) * 16 + row % 4 * 4 +
          row / 4 % 2 * 2);
    }
  }

  template <class Side>
  __device__ __forceinline__ void load_weights(
      int vector, int expert, Weights<Side>& weights) const {
    constexpr int kRows = std::min(Side::kRows, 32);  // at a time
    constexpr int kParts = Side::kRows / kRows;
    constexpr int kVectors = kRows / 16;  // of a lane
    const int producer = vector + (Side::kIsX ? 0 : Tile::kProducers);
    const uint32_t stage =
        shared +
        static_cast<uint32_t>(Tile::kStage + producer * Tile::kStageBytes);
    const BttBackwardParams::Side& side = params_of<Side>();
    const int own = first_own<Side>() + vector * kVector;
    const int others = side.other - first_other<Side>();
    const int rows = own < side.own ? side.row : 0;
    const auto* from = reinterpret_cast<const uint16_t*>(side.core) +
                       expert * side.expert_stride + own * side.own_stride +
                       first_other<Side>() * side.other_stride +
                       r * side.rho_stride;
    const int64_t inner = Side::kIsX ? side.other_stride : side.row_stride;
    const int64_t outer = Side::kIsX ? side.row_stride : side.other_stride;
    const bool by_vectors =
        inner == 1 && outer % kVector == 0 && side.own_stride % kVector == 0 &&
        side.row % kVector == 0 && reinterpret_cast<uintptr_t>(from) % 16 == 0;
    // This lane's vectors of a part: where they begin.
    const auto row_of = [&](int n) {
      return Side::kIsX ? (lane + 32 * n) / 2
                        : (lane + 32 * n) % (kRows / 8) * 8;
    };
    const auto other_of = [&](int n) {
      return Side::kIsX ? lane % 2 * 8 : (lane + 32 * n) / (kRows / 8);
    };
    uint4 values[8][kParts][kVectors];
    if (by_vectors) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
#pragma unroll
        for (int n = 0; n < kVectors; ++n) {
          const uint16_t* at = from + i * side.own_stride +
                               row_of(n) * side.row_stride +
                               other_of(n) * side.other_stride;
#pragma unroll
          for (int part = 0; part < kParts; ++part) {
            const int row = row_of(n) + part * kRows;
            values[i][part][n] = row < rows && other_of(n) < others
                                     ? __ldg(reinterpret_cast<const uint4*>(
                                           at + part * kRows * side.row_stride))
                                     : uint4{};
          }
        }
      }
    }
    const int place = lane % 8;
    const int high = lane / 8 % 2;
    const int deep = lane / 16;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        if (by_vectors) {
#pragma unroll
          for (int n = 0; n < kVectors; ++n) {
            uint4 v = values[i][part][n];
            if constexpr (!Side::kIsX) {
              v = {
                  ptx::low_pair(v.x, v.z),
                  ptx::high_pair(v.x, v.z),
                  ptx::low_pair(v.y, v.w),
                  ptx::high_pair(v.y, v.w)};
            }
            ptx::store_shared(stage + staged<Side>(row_of(n), other_of(n)), v);
          }
        } else {
#pragma unroll 1
          for (int n = lane; n < kRows * kBackwardOwn; n += 32) {
            const int row = n / kBackwardOwn;
            const int other = n % kBackwardOwn;
            const bool there = row + part * kRows < rows && other < others;
            ptx::store_shared_scalar(
                stage + staged<Side>(row, other),
                there ? __ldg(
                            from + i * side.own_stride +
                            (row + part * kRows) * side.row_stride +
                            other * side.other_stride)
                      : uint16_t{0});
          }
        }
        __syncwarp();
#pragma unroll
        for (int n = 0; n < kRows / 16; ++n) {
          uint4& w = weights[part * kRows / 16 + n][i];
          if constexpr (Side::kIsX) {
            ptx::load_matrix_transposed(
                stage +
                    staged<Side>(
                        n * 16 + alpha_of_depth(deep * 8 + place), high * 8),
                w.x,
                w.y,
                w.z,
                w.w);
          } else {
            ptx::load_matrix(
                stage + staged<Side>(n * 16 + deep * 8, high * 8 + place),
                w.x,
                w.y,
                w.z,
                w.w);
          }
        }
        __syncwarp();
      }
    }
  }

  // Others x rows times rows x tokens, for 8 own indices, 8 tokens at a time.
  template <class Side>
  __device__ __forceinline__ void run_producer(int vector) const {
    constexpr int kSteps = Side::kRows / 16;
    // Steps that operands are read ahead.
    constexpr int kAhead = Tile::kMixed ? 1 : kSteps;
    uint32_t from[2];
#pragma unroll
    for (int odd = 0; odd < 2; ++odd) {
      from[odd] = activations_of<Side>() +
                  Side::activation(
                      vector, Side::token_at(lane / 4), lane % 4 + 4 * odd);
    }
    const uint32_t to =
        intermediate_of<Side>() +
        Side::intermediate(
            vector * kVector + lane / 16, lane / 8 % 2 * kVector + lane % 8, 0);
    ptx::Ring<Tile::kBuffers> buffer(0);
    ptx::Ring<Tile::kIntermediates> z(1);
    for_spans<kRouted>([&](int expert, int begin, int end) {
      Weights<Side> weights;
      load_weights<Side>(vector, expert, weights);
#pragma unroll 1
      for (int tile = begin; tile < end; ++tile) {
        ptx::barrier_wait(loaded(buffer.slot), buffer.phase);
        const auto offset =
            static_cast<uint32_t>(buffer.slot * Tile::kActivationBytes);
        const uint32_t z_to =
            to + static_cast<uint32_t>(z.slot * Tile::kIntermediateBytes);
        uint4 v[2 * kSteps][2][2];  // [step][8 of depth][odd depth]
        const auto load = [&](int i) {
#pragma unroll
          for (int n = 0; n < 4; ++n) {
            v[i][n / 2][n % 2] = ptx::load_shared(
                from[n % 2] + offset +
                static_cast<uint32_t>(
                    i / kSteps * Side::kHalfBytes +
                    (i % kSteps * 16 + n / 2 * 8) * 32));
          }
        };
#pragma unroll
        for (int i = 0; i < kAhead; ++i) {
          load(i);
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          Sums sums;
          clear(sums);
#pragma unroll
          for (int step = 0; step < kSteps; ++step) {
            const int now = half * kSteps + step;
            if (now + kAhead < 2 * kSteps) {
              load(now + kAhead);
            }
#pragma unroll
            for (int i = 0; i < 8; ++i) {
              ptx::mma(
                  sums[i],
                  weights[step][i],
                  paired(i, v[now][0]),
                  paired(i, v[now][1]));
            }
          }
          if constexpr (kRouted) {
            const int place = half * 8 + lane % 4 * 2;
            const float gate = ptx::load_shared_float(
                gate_of(buffer.slot, Side::token_at(place)));
            const float next = ptx::load_shared_float(
                gate_of(buffer.slot, Side::token_at(place + 1)));
#pragma unroll
            for (int i = 0; i < 8; ++i) {
              sums[i][0] *= gate;
              sums[i][1] *= next;
              sums[i][2] *= gate;
              sums[i][3] *= next;
            }
          }
          if (half == 0) {
            ptx::barrier_wait(used<Side>(z.slot), z.phase);
          } else {
            give_back(buffer.slot);
          }
#pragma unroll
          for (int i = 0; i < 8; i += 2) {
            ptx::store_matrix(
                (z_to ^ static_cast<uint32_t>(i * 16)) +
                    static_cast<uint32_t>(half * kBackwardOwn * 16),
                ptx::round_pair(sums[i][0], sums[i][1]),
                ptx::round_pair(sums[i][2], sums[i][3]),
                ptx::round_pair(sums[i + 1][0], sums[i + 1][1]),
                ptx::round_pair(sums[i + 1][2], sums[i + 1][3]));
          }
        }
        arrive(made<Side>(z.slot));
        buffer.next();
        z.next();
      }
    });
  }

  // Rows x tokens times tokens x others, the other side's z or dz, for 8 own
  // indices, up to 32 rows and 16 others.
  template <class Side>
  __device__ __forceinline__ void run_adder(int adder) const {
    using Other = Opposite<Side>;
    constexpr int kRowTiles = Side::kRowTiles;
    const int vector = adder % kBackwardVectors;
    const int first_row = adder / kBackwardVectors * kRowTiles * 16;
    uint32_t from[2];
#pragma unroll
    for (int odd = 0; odd < 2; ++odd) {
      from[odd] =
          activations_of<Side>() +
          Side::activation(
              vector, Side::token_at(lane % 4 * 2 + odd), first_row + lane / 4);
    }
    const uint32_t z_from =
        intermediate_of<Other>() +
        Other::intermediate(
            lane / 16 * 8 + lane % 8, vector * kVector, lane / 8 % 2);
    ptx::Ring<Tile::kBuffers> buffer(0);
    ptx::Ring<Tile::kIntermediates> z(0);
    for_spans<kRouted>([&](int expert, int begin, int end) {
      Sums sums[kRowTiles][kBackwardVectors];
#pragma unroll
      for (int n = 0; n < kRowTiles * kBackwardVectors; ++n) {
        clear(sums[n / kBackwardVectors][n % kBackwardVectors]);
      }
#pragma unroll 1
      for (int tile = begin; tile < end; ++tile) {
        ptx::barrier_wait(loaded(buffer.slot), buffer.phase);
        const auto offset =
            static_cast<uint32_t>(buffer.slot * Tile::kActivationBytes);
        const uint32_t z_at =
            z_from + static_cast<uint32_t>(z.slot * Tile::kIntermediateBytes);
#pragma unroll
        for (int n = 0; n < kRowTiles; ++n) {
          Operands w;
          const auto rows = offset + static_cast<uint32_t>(n * 16 * 32);
          w.load({from[0] + rows, from[1] + rows}, 8 * 32, Side::kHalfBytes);
          if (n == 0) {
            ptx::barrier_wait(made<Other>(z.slot), z.phase);
          } else {
            __syncwarp();  // or the compiler keeps all of z, and spills
          }
#pragma unroll
          for (int i = 0; i < 8; ++i) {
            uint32_t b[4];  // [vector of others][8 tokens]
            ptx::load_matrix(
                (z_at ^ static_cast<uint32_t>(i * 16)) +
                    static_cast<uint32_t>(i * 2 * kBackwardOwn * 16),
                b[0],
                b[1],
                b[2],
                b[3]);
            const uint4 rows_i = w.matrix(i);
            ptx::mma(sums[n][0][i], rows_i, b[0], b[1]);
            ptx::mma(sums[n][1][i], rows_i, b[2], b[3]);
          }
        }
        give_back(buffer.slot);
        arrive(used<Other>(z.slot));
        buffer.next();
        z.next();
      }
      store<Side>(vector, first_row, split + expert, sums);
    });
  }

  template <class Side>
  __device__ __forceinline__ void store(
      int vector,
      int first_row,
      int slot,
      const Sums (&sums)[Side::kRowTiles][kBackwardVectors]) const {
    const BttBackwardParams::Side& side = params_of<Side>();
    const int own = first_own<Side>() + vector * kVector;
#pragma unroll
    for (int n = 0; n < kBackwardVectors; ++n) {
      const int other = first_other<Side>() + n * kVector + 2 * (lane % 4);
      if (own >= side.own || other >= side.other) {
        continue;
      }
#pragma unroll
      for (int half = 0; half < 2 * Side::kRowTiles; ++half) {
        const int row = first_row + lane / 4 + 8 * half;
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
              sums[half / 2][n][i][half % 2 * 2],
              sums[half / 2][n][i][half % 2 * 2 + 1]};
        }
      }
    }
  }

  __device__ void run() {
    init_barriers();
    ptx::grid_dependency_sync();
    const int group = warp / 4;
    const int mine = warp % 4;
    if constexpr (Tile::kMixed) {
      using Large = typename Tile::Large;
      using Small = typename Tile::Small;
      if (group == 0) {
        ptx::setmaxnreg_inc<176>();
        run_adder<Large>(mine);
      } else if (group == 1) {
        ptx::setmaxnreg_inc<208>();
        if (mine < 2) {
          run_producer<Large>(mine);
        } else {
          run_adder<Small>(mine - 2);
        }
      } else {
        ptx::setmaxnreg_dec<120>();
        if (mine >= 2) {  // the schedulers of the other side's adders
          run_producer<Small>(mine - 2);
        } else if (mine == 0) {
          run_copier<X>();
        } else {
          run_copier<Dy>();
        }
      }
    } else {
      if (group == 0) {
        ptx::setmaxnreg_inc<232>();
        if (mine < 2) {
          run_producer<X>(mine);
        } else {
          run_producer<Dy>(mine - 2);
        }
      } else if (group == 1) {
        ptx::setmaxnreg_inc<232>();
        if (mine < 2) {
          run_adder<X>(mine);
        } else {
          run_adder<Dy>(mine - 2);
        }
      } else {
        ptx::setmaxnreg_dec<40>();
        if (mine == 0) {
          run_copier<X>();
        } else if (mine == 1) {
          run_copier<Dy>();
        } else if (sums_bias()) {
          run_bias(mine - 2);
        }
      }
    }
    __syncwarp();
    ptx::cluster_sync();  // nobody leaves while others may still send to it
  }
};

template <class Tile, bool kRouted>
__global__ void __launch_bounds__(Tile::kThreads, 1) btt_backward_resident_sm90(
    const __grid_constant__ BttBackwardParams params) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ uint4 shared_tile[];
  BttResidentGrad<Tile, kRouted> kernel(
      params, ptx::shared_address(shared_tile));
  kernel.run();
#endif
}

}  // namespace einforge::kernels::cuda
