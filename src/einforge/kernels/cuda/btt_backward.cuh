#pragma once

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
// where made' is what the other side made. A block takes some gammas, some
// phis and one r, keeps both cores in shared memory and both gradients in the
// registers of eight warps, and sweeps over its share of the tokens, 16 at a
// time. Four more warps copy. Between making z and dz of a tile and adding to
// the gradients there is one barrier.
//
// In every product eight neighbours of the own index, which lie side by side in
// memory, are eight independent matrices: one 16-byte read gives a lane its
// element of all eight, and PRMT pairs two along the depth.
namespace einforge::kernels::cuda {

struct BttBackwardParams {
  struct Side {
    const __nv_bfloat16* activations;  // (tokens, row, own)
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
  int gamma_blocks;
  int phi_blocks;
  int splits;
  // Of a mixture: its rows, and each pair's gate, which z and dz take. A split
  // has a stretch of all tiles; what it has of expert e goes to slot split + e.
  RoutedRows rows;
  const float* gates;
};

inline constexpr int kBackwardTokens = 16;  // of a tile
inline constexpr int kBackwardBuffers = 2;
inline constexpr int kBackwardCopiers = 4;  // warps
inline constexpr int kBackwardWorkers = 8;

// What a block keeps of one side, and its index maps in shared memory.
enum class BttBackwardName { kX, kDy };
template <
    BttBackwardName kSideName,
    int kRowCount,
    int kOwnOctetCount,
    int kOtherOctetCount,
    int kLayerOwnCount>
struct BttBackwardSide {
  static constexpr bool kIsX = kSideName == BttBackwardName::kX;
  static constexpr int kRows = kRowCount;
  static constexpr int kOwnOctets = kOwnOctetCount;
  static constexpr int kOtherOctets = kOtherOctetCount;
  static constexpr int kOwn = kOwnOctets * kVector;
  static constexpr int kOther = kOtherOctets * kVector;
  static constexpr int kLayerOwn = kLayerOwnCount;  // own indices of the layer
  static constexpr int kCoreBytes = kOwn * kRows * kOther * 2;
  static constexpr int kActivationBytes =
      kBackwardTokens * kRows * kOwnOctets * 16;
  static constexpr int kMadeBytes = kOwnOctets * kOther * kBackwardTokens * 16;
  // Products of eight matrices each.
  static constexpr int kMakeUnits = kOwnOctets * kOtherOctets;
  static constexpr int kAddUnits = kOwnOctets * (kRows / 16) * kOtherOctets;
  static constexpr int kWarpUnits = kAddUnits / kBackwardWorkers;
  static_assert(kAddUnits % kBackwardWorkers == 0);
  static_assert(kOtherOctets % kWarpUnits == 0);  // they share rows

  // (octet, token, row) vectors: swizzled so that neither the copy (octets
  // first) nor reads of 2 tokens x 4 rows or 4 x 2 meet in a bank.
  __device__ static uint32_t activation(int octet, int token, int row) {
    const int flip = (token ^ octet * (8 / kOwnOctets)) & 7;
    return static_cast<uint32_t>(
        ((octet * kBackwardTokens + token) * kRows + (row ^ flip)) * 16);
  }
  // (own, row, octet of the other index).
  __device__ static uint32_t core(int own, int row, int octet) {
    return static_cast<uint32_t>(
        ((own * kRows + row) * kOtherOctets +
         (octet ^ (row / (8 / kOtherOctets) & (kOtherOctets - 1)))) *
        16);
  }
  // (octet, other, token) vectors of z or dz.
  __device__ static uint32_t made(int octet, int other, int token) {
    return static_cast<uint32_t>(
        ((octet * kOther + other) * kBackwardTokens + (token ^ (other & 7))) *
        16);
  }
};

// The layer's gamma and phi are known to the compiler, so that a copy costs few
// instructions.
template <
    int kAlphaSize,
    int kEpsilonSize,
    int kGammaOctets,
    int kPhiOctets,
    int kGammaSize,
    int kPhiSize>
struct BttBackwardTile {
  using X = BttBackwardSide<
      BttBackwardName::kX,
      kAlphaSize,
      kGammaOctets,
      kPhiOctets,
      kGammaSize>;
  using Dy = BttBackwardSide<
      BttBackwardName::kDy,
      kEpsilonSize,
      kPhiOctets,
      kGammaOctets,
      kPhiSize>;
  static constexpr int kThreads = 32 * (kBackwardCopiers + kBackwardWorkers);
  static constexpr int kCopierRegisters = 40;  // these fill the register file
  static constexpr int kWorkerRegisters = 232;
  // Shared memory: cores, activations, what was made, barriers.
  static constexpr int kActivations = X::kCoreBytes + Dy::kCoreBytes;
  static constexpr int kActivationBytes =
      X::kActivationBytes + Dy::kActivationBytes;
  static constexpr int kMade =
      kActivations + kBackwardBuffers * kActivationBytes;
  static constexpr int kMadeBytes = X::kMadeBytes + Dy::kMadeBytes;
  static constexpr int kBarriers = kMade + kBackwardBuffers * kMadeBytes;
  static constexpr int kGates = kBarriers + 8 * 2 * kBackwardBuffers;
  static constexpr int kSharedBytes =
      kGates + 4 * kBackwardTokens * kBackwardBuffers;
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
  int first_gamma;
  int first_phi;
  int r;
  int split;

  __device__ BttBackward(const BttBackwardParams& params, uint32_t raw)
      : p(params), shared(raw) {
    lane = static_cast<int>(threadIdx.x) % 32;
    warp = static_cast<int>(threadIdx.x) / 32;
    // Blocks of the same tokens are neighbours, and meet in L2.
    int block = static_cast<int>(blockIdx.x);
    first_gamma = block % p.gamma_blocks * X::kOwn;
    block /= p.gamma_blocks;
    first_phi = block % p.phi_blocks * Dy::kOwn;
    block /= p.phi_blocks;
    r = block % p.rho;
    split = block / p.rho;
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
    return shared + (Side::kIsX ? 0 : static_cast<uint32_t>(X::kCoreBytes));
  }
  template <class Side>
  __device__ uint32_t activations_of(int slot) const {
    return shared + static_cast<uint32_t>(
                        Tile::kActivations + slot * Tile::kActivationBytes +
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
        ptx::barrier_init(loaded(slot), 32 * kBackwardCopiers);
        ptx::barrier_init(read(slot), kBackwardWorkers);
      }
    }
  }

  // By all workers, along what is contiguous in a core of the operator's own
  // layout. Reads many elements before it writes any, because each takes as
  // long as a trip to L2.
  template <class Side>
  __device__ void load_core(int expert) const {
    constexpr int kBatch = 32;
    constexpr int kThreads = 32 * kBackwardWorkers;
    constexpr int kCount = Side::kCoreBytes / 2;
    static_assert(kCount % (kBatch * kThreads) == 0);
    const BttBackwardParams::Side& side = params_of<Side>();
    const __nv_bfloat16* from = side.core + expert * side.expert_stride +
                                first_own<Side>() * side.own_stride +
                                first_other<Side>() * side.other_stride +
                                r * side.rho_stride;
    const auto index = [](int i, int& own, int& row, int& other) {
      constexpr int kInner = Side::kIsX ? Side::kOther : Side::kRows;
      const int outer = i / kInner % (Side::kRows * Side::kOther / kInner);
      row = Side::kIsX ? outer : i % kInner;
      other = Side::kIsX ? i % kInner : outer;
      own = i / (Side::kRows * Side::kOther);
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

  // --- copiers -------------------------------------------------------------

  // Rows past the last token become zeros. A thread has one place in every
  // kTogether-th token. The swizzle's exclusive or stays within 128 bytes.
  template <class Side>
  __device__ __forceinline__ void copy(
      int thread, int64_t first_token, int slot) const {
    constexpr int kThreads = 32 * kBackwardCopiers;
    constexpr int kVectors = Side::kRows * Side::kOwnOctets;  // of a token
    constexpr int kTogether = kThreads / kVectors;
    constexpr int kToken = Side::kRows * Side::kLayerOwn;
    static_assert(kThreads % kVectors == 0 && Side::kRows % 8 == 0);
    const BttBackwardParams::Side& side = params_of<Side>();
    const int octet = thread % Side::kOwnOctets;
    const int row = thread / Side::kOwnOctets % Side::kRows;
    const int token = thread / kVectors;
    const __nv_bfloat16* from =
        side.activations + (first_token + token) * kToken + first_own<Side>() +
        row * Side::kLayerOwn + octet * kVector;
    const uint32_t to =
        activations_of<Side>(slot) + Side::activation(octet, token, row);
    const int64_t left = p.tokens - first_token - token;
    if (left > kBackwardTokens - kTogether) {
#pragma unroll
      for (int n = 0; n < kBackwardTokens; n += kTogether) {
        ptx::copy_async(
            (to ^ static_cast<uint32_t>(n % 8 * 16)) +
                static_cast<uint32_t>(n * Side::kRows * 16),
            from + n * kToken);
      }
    } else {
#pragma unroll 1
      for (int n = 0; n < kBackwardTokens; n += kTogether) {
        const bool valid = n < left;
        ptx::copy_async(
            (to ^ static_cast<uint32_t>(n % 8 * 16)) +
                static_cast<uint32_t>(n * Side::kRows * 16),
            valid ? from + static_cast<int64_t>(n) * kToken : side.activations,
            valid);
      }
    }
  }

  // The same where each row has a token of its own: `pair` is that of row
  // lane % 16 of the tile.
  template <class Side>
  __device__ __forceinline__ void copy_routed(
      int thread, int pair, int slot) const {
    constexpr int kThreads = 32 * kBackwardCopiers;
    constexpr int kVectors = Side::kRows * Side::kOwnOctets;
    constexpr int kTogether = kThreads / kVectors;
    const BttBackwardParams::Side& side = params_of<Side>();
    const int octet = thread % Side::kOwnOctets;
    const int row = thread / Side::kOwnOctets % Side::kRows;
    const int token = thread / kVectors;
    const __nv_bfloat16* from = side.activations + first_own<Side>() +
                                row * Side::kLayerOwn + octet * kVector;
    const uint32_t to =
        activations_of<Side>(slot) + Side::activation(octet, token, row);
#pragma unroll 4
    for (int n = 0; n < kBackwardTokens; n += kTogether) {
      const int own_pair = __shfl_sync(0xFFFFFFFFU, pair, n + token);
      const bool valid = own_pair < p.rows.pairs;
      ptx::copy_async(
          (to ^ static_cast<uint32_t>(n % 8 * 16)) +
              static_cast<uint32_t>(n * Side::kRows * 16),
          valid ? from + static_cast<int64_t>(own_pair / p.rows.active) *
                             (Side::kRows * Side::kLayerOwn)
                : side.activations,
          valid);
    }
  }

  __device__ void run_copier(int thread) const {
    Ring buffer;
    for_spans([&](int expert, int begin, int end) {
#pragma unroll 1
      for (int tile = begin; tile < end; ++tile) {
        if constexpr (kRouted) {
          const int pair = RoutedTiles<kBackwardTokens>{p.rows}.pair(
              expert, tile, lane % kBackwardTokens);
          ptx::barrier_wait(read(buffer.slot), buffer.phase ^ 1);
          copy_routed<Dy>(thread, pair, buffer.slot);
          copy_routed<X>(thread, pair, buffer.slot);
          if (thread < kBackwardTokens) {
            const bool valid = pair < p.rows.pairs;
            ptx::copy_async_word(
                gate_of(buffer.slot, thread),
                valid ? p.gates + pair : p.gates,
                valid);
          }
        } else {
          const int64_t first_token =
              static_cast<int64_t>(tile) * kBackwardTokens;
          ptx::barrier_wait(read(buffer.slot), buffer.phase ^ 1);
          copy<Dy>(thread, first_token, buffer.slot);
          copy<X>(thread, first_token, buffer.slot);
        }
        ptx::copy_async_arrive(loaded(buffer.slot));
        buffer.next();
      }
    });
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
    const int octet = unit / Side::kOtherOctets;
    const int others = unit % Side::kOtherOctets;
    uint32_t from[2];
#pragma unroll
    for (int odd = 0; odd < 2; ++odd) {
      from[odd] = activations_of<Side>(slot) +
                  Side::activation(octet, lane / 4, 2 * (lane % 4) + odd);
    }
    const uint32_t weights =
        core_of<Side>() +
        Side::core(octet * kVector + lane_matrix(), lane_deep(), others);
    Sums sums;
    clear(sums);
#pragma unroll 1
    for (int step = 0; step < Side::kRows / 16; ++step) {
      Operands w;
      w.load(from, 8 * Side::kRows * 16, 8 * 16);
#pragma unroll
      for (int i = 0; i < 8; i += 2) {
        uint32_t a0;
        uint32_t a1;
        uint32_t b0;
        uint32_t b1;
        ptx::load_matrix_transposed(
            weights +
                static_cast<uint32_t>(
                    (i * Side::kRows + step * 16) * Side::kOtherOctets * 16),
            a0,
            a1,
            b0,
            b1);
        ptx::mma(sums[i], w.matrix(i), a0, a1);
        ptx::mma(sums[i + 1], w.matrix(i + 1), b0, b1);
      }
      from[0] += 256;
      from[1] += 256;
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
      others = unit % Side::kOtherOctets;
      row_tile = unit / Side::kOtherOctets % (Side::kRows / 16);
      octet = unit / Side::kOtherOctets / (Side::kRows / 16);
    }
  };

  // Rows x tokens times tokens x others; Opposite made the second.
  template <class Side, class Opposite>
  __device__ __forceinline__ void add(
      int worker, int slot, Sums (&sums)[Side::kWarpUnits]) const {
    const Unit<Side> unit(worker);
    uint32_t from[2];
#pragma unroll
    for (int odd = 0; odd < 2; ++odd) {
      from[odd] =
          activations_of<Side>(slot) +
          Side::activation(
              unit.octet, 2 * (lane % 4) + odd, unit.row_tile * 16 + lane / 4);
    }
    Operands w;
    // Eight rows further the swizzle is the same; so it is for eight tokens.
    w.load(from, 8 * 16, 8 * Side::kRows * 16);
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
                  lane_deep()),
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
        __syncwarp();
        if (lane == 0) {
          ptx::barrier_arrive(read(buffer.slot));
        }
        buffer.next();
      }
      store<X>(worker, split + expert, x_sums);
      store<Dy>(worker, split + expert, dy_sums);
    });
  }

  __device__ void run() {
    init_barriers();
    __syncthreads();
    if (warp < kBackwardWorkers) {
      ptx::grow_registers<Tile::kWorkerRegisters>();
      run_worker(warp);
    } else {
      ptx::shrink_registers<Tile::kCopierRegisters>();
      run_copier(static_cast<int>(threadIdx.x) - 32 * kBackwardWorkers);
    }
  }
};

template <class Tile, bool kRouted>
__global__ void __launch_bounds__(Tile::kThreads, 1)
    btt_backward_partials(const __grid_constant__ BttBackwardParams params) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) uint4 shared_tile[];
  BttBackward<Tile, kRouted> kernel(params, ptx::shared_address(shared_tile));
  kernel.run();
#endif
}

}  // namespace einforge::kernels::cuda
