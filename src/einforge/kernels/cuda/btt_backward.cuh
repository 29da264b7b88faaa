#pragma once

#include "einforge/kernels/cuda/btt_linear.h"
#include "einforge/kernels/cuda/btt_linear_layout.h"
#include "einforge/kernels/cuda/ptx.cuh"

// The fused backward kernel; docs/design/btt_backward.md draws it.
//
// A block takes 8 kOctets gammas, 8 kPhiOctets phis and one r, keeps their
// weights in shared memory and their gradients in registers, and sweeps over
// its share of the tokens, 16 at a time, in three phases:
//   1. dz from dy;  2. z from x, dx from dz;  3. dA += x dz, dB += dy z.
// In every product eight neighbours of memory (gammas of x and z, phis of dy)
// are eight independent matrices: one 16-byte read gives a lane its element
// of all eight, and PRMT pairs two along the depth.
namespace einforge::kernels::cuda {

struct BttBackwardParams {
  const __nv_bfloat16* x;
  const __nv_bfloat16* dy;
  __nv_bfloat16* dx;
  const __nv_bfloat16* a;
  const __nv_bfloat16* b;
  BttCores::Strides a_strides;
  BttCores::Strides b_strides;
  float* a_partials;  // (splits, gamma, alpha, rho, phi)
  float* b_partials;  // (splits, phi, epsilon, rho, gamma)
  int64_t tokens;
  BttSizes sizes;
  int gamma_blocks;
  int phi_blocks;
  int splits;
};

// Shared memory: the weights, two tiles of dy, kXBuffers of x, z and dz.
template <
    int kAlphaSize,
    int kEpsilonSize,
    int kOctetCount,
    int kPhiOctetCount,
    int kBuffers>
struct BttBackwardTile {
  static constexpr int kAlpha = kAlphaSize;
  static constexpr int kEpsilon = kEpsilonSize;
  static constexpr int kOctets = kOctetCount;  // of gammas
  static constexpr int kPhiOctets = kPhiOctetCount;
  static constexpr int kXBuffers = kBuffers;
  static constexpr int kPhi = kPhiOctets * kVector;
  static constexpr int kTokens = 16;
  static constexpr int kWarps = 8;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kABytes = kOctets * kVector * kAlpha * kPhi * 2;
  static constexpr int kBBytes = kOctets * kPhi * kEpsilon * 16;
  static constexpr int kDyBytes = kTokens * kEpsilon * kPhiOctets * 16;
  static constexpr int kXBytes = kTokens * kAlpha * kOctets * 16;
  static constexpr int kZBytes = kOctets * kPhi * kTokens * 16;
  static constexpr int kSharedBytes =
      kABytes + kBBytes + 2 * kDyBytes + kXBuffers * kXBytes + 2 * kZBytes;
  // Products of eight matrices each: 16 x 8 sums.
  static constexpr int kUnitsA = kOctets * (kAlpha / 16) * kPhiOctets;
  static constexpr int kUnitsB = kOctets * (kEpsilon / 16) * kPhiOctets;
  static constexpr int kWarpUnitsA = (kUnitsA + kWarps - 1) / kWarps;
  static constexpr int kWarpUnitsB = (kUnitsB + kWarps - 1) / kWarps;
};

template <class Tile>
struct BttBackward {
  static constexpr int kAlpha = Tile::kAlpha;
  static constexpr int kEpsilon = Tile::kEpsilon;
  static constexpr int kOctets = Tile::kOctets;
  static constexpr int kPhiOctets = Tile::kPhiOctets;
  static constexpr int kTokens = Tile::kTokens;
  static constexpr int kWarps = Tile::kWarps;

  using Sums = float[8][4];  // [matrix][fragment]

  const BttBackwardParams& p;
  uint32_t a_shared;   // [gamma][alpha][phi], 16-byte chunks swizzled
  uint32_t b_shared;   // [octet][phi][epsilon][eight gammas]
  uint32_t dy_shared;  // [octet of phis][token][epsilon][eight phis]
  uint32_t x_shared;   // [octet][token][alpha][eight gammas]
  uint32_t z_shared;   // [octet][phi][token][eight gammas]
  uint32_t dz_shared;  // the same
  int thread;
  int lane;
  int warp;
  int first_gamma;
  int first_phi;
  int r;
  int split;
  Sums a_sums[Tile::kWarpUnitsA];
  Sums b_sums[Tile::kWarpUnitsB];

  __device__ BttBackward(const BttBackwardParams& params, uint32_t shared)
      : p(params) {
    a_shared = shared;
    b_shared = a_shared + Tile::kABytes;
    dy_shared = b_shared + Tile::kBBytes;
    x_shared = dy_shared + 2 * Tile::kDyBytes;
    z_shared = x_shared + Tile::kXBuffers * Tile::kXBytes;
    dz_shared = z_shared + Tile::kZBytes;
    thread = static_cast<int>(threadIdx.x);
    lane = thread % 32;
    warp = thread / 32;
    // Blocks of the same tokens are neighbours, and meet in L2.
    int block = static_cast<int>(blockIdx.x);
    first_gamma = block % p.gamma_blocks * kOctets * kVector;
    block /= p.gamma_blocks;
    first_phi = block % p.phi_blocks * Tile::kPhi;
    block /= p.phi_blocks;
    r = block % p.sizes.rho;
    split = block / p.sizes.rho;
  }

  // Keeps the compiler from computing every phase's addresses before the loop
  // over tiles: there is no room for them beside the sums.
  __device__ __forceinline__ void forget_addresses() {
    asm volatile("" : "+r"(thread), "+r"(lane), "+r"(warp));
  }

  // x and dy in shared memory, (octet, token, row) vectors: swizzled so that
  // neither the copy (octets first) nor reads of 2 tokens x 4 rows or 4 x 2
  // meet in a bank.
  template <int kCount, int kRows>
  __device__ static uint32_t vector_offset(int octet, int token, int row) {
    const int flip = (token ^ octet * (8 / kCount)) & 7;
    return static_cast<uint32_t>(
        ((octet * kTokens + token) * kRows + (row ^ flip)) * 16);
  }
  // z and dz, likewise.
  __device__ static uint32_t z_offset(int octet, int phi, int token) {
    return static_cast<uint32_t>(
        ((octet * Tile::kPhi + phi) * kTokens + (token ^ (phi & 7))) * 16);
  }
  __device__ static uint32_t a_offset(int gamma, int alpha, int chunk) {
    return static_cast<uint32_t>(
        ((gamma * kAlpha + alpha) * kPhiOctets +
         (chunk ^ (alpha / (8 / kPhiOctets) & (kPhiOctets - 1)))) *
        16);
  }

  // --- to shared memory ----------------------------------------------------

  // kCount elements of a core: where(i) says where element i is, relative to
  // `from`, and where it goes. Reads many before it writes any, because each
  // takes as long as a trip to L2.
  template <int kCount, class Where>
  __device__ void load_core(
      const __nv_bfloat16* from, const Where& where) const {
    constexpr int kBatch = 32;
    static_assert(kCount % (kBatch * Tile::kThreads) == 0);
#pragma unroll 1
    for (int first = thread; first < kCount; first += kBatch * Tile::kThreads) {
      __nv_bfloat16 values[kBatch];
#pragma unroll
      for (int n = 0; n < kBatch; ++n) {
        int64_t offset = 0;
        uint32_t to = 0;
        where(first + n * Tile::kThreads, offset, to);
        values[n] = from[offset];
      }
#pragma unroll
      for (int n = 0; n < kBatch; ++n) {
        int64_t offset = 0;
        uint32_t to = 0;
        where(first + n * Tile::kThreads, offset, to);
        store_half(to, values[n]);
      }
    }
  }

  __device__ void load_weights() const {
    load_core<Tile::kABytes / 2>(
        p.a + first_gamma * p.a_strides.gamma + first_phi * p.a_strides.phi +
            r * p.a_strides.rho,
        [&](int i, int64_t& offset, uint32_t& to) {
          const int phi = i % Tile::kPhi;
          const int alpha = i / Tile::kPhi % kAlpha;
          const int gamma = i / Tile::kPhi / kAlpha;
          offset = gamma * p.a_strides.gamma + alpha * p.a_strides.in +
                   phi * p.a_strides.phi;
          to = a_shared + a_offset(gamma, alpha, phi / kVector) +
               static_cast<uint32_t>(phi % kVector * 2);
        });
    load_core<Tile::kBBytes / 2>(
        p.b + first_gamma * p.b_strides.gamma + first_phi * p.b_strides.phi +
            r * p.b_strides.rho,
        [&](int i, int64_t& offset, uint32_t& to) {
          const int epsilon = i % kEpsilon;
          const int gamma = i / kEpsilon % (kOctets * kVector);
          const int phi = i / kEpsilon / (kOctets * kVector);
          const int row =
              (gamma / kVector * Tile::kPhi + phi) * kEpsilon + epsilon;
          offset = gamma * p.b_strides.gamma + epsilon * p.b_strides.in +
                   phi * p.b_strides.phi;
          to = b_shared + static_cast<uint32_t>(row * 16 + gamma % kVector * 2);
        });
  }
  __device__ static void store_half(uint32_t shared, __nv_bfloat16 value) {
    asm volatile("st.shared.u16 [%0], %1;" ::"r"(shared),
                 "h"(__bfloat16_as_ushort(value))
                 : "memory");
  }

  __device__ static void store_word(uint32_t shared, uint32_t value) {
    asm volatile("st.shared.u32 [%0], %1;" ::"r"(shared), "r"(value)
                 : "memory");
  }

  // Rows past the last token become zeros.
  template <int kCount, int kRows>
  __device__ void load(
      const __nv_bfloat16* from,
      int64_t token_stride,
      int64_t row_stride,
      int64_t first_token,
      uint32_t to) const {
    const int64_t left = p.tokens - first_token;
    const __nv_bfloat16* start = from + first_token * token_stride;
    constexpr int kAll = kTokens * kRows * kCount;
    static_assert(kAll % Tile::kThreads == 0);
#pragma unroll 4
    for (int n = 0; n < kAll / Tile::kThreads; ++n) {
      const int i = thread + n * Tile::kThreads;
      const int octet = i % kCount;
      const int row = i / kCount % kRows;
      const int token = i / kCount / kRows;
      const bool valid = token < left;
      ptx::copy_async(
          to + vector_offset<kCount, kRows>(octet, token, row),
          valid ? start + token * token_stride + row * row_stride +
                      octet * kVector
                : from,
          valid);
    }
  }
  __device__ void load_x(int64_t first_token, int buffer) const {
    load<kOctets, kAlpha>(
        p.x + first_gamma,
        static_cast<int64_t>(kAlpha) * p.sizes.gamma,
        p.sizes.gamma,
        first_token,
        x_shared + static_cast<uint32_t>(buffer * Tile::kXBytes));
  }
  __device__ void load_dy(int64_t first_token, int buffer) const {
    load<kPhiOctets, kEpsilon>(
        p.dy + first_phi,
        static_cast<int64_t>(kEpsilon) * p.sizes.phi,
        p.sizes.phi,
        first_token,
        dy_shared + static_cast<uint32_t>(buffer * Tile::kDyBytes));
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

  // Two matrices of the second operand, from `from` of this lane.
  template <bool kTransposed>
  __device__ static __forceinline__ void multiply_two(
      Sums& sums, const Operands& w, int first, uint32_t from) {
    uint32_t a0;
    uint32_t a1;
    uint32_t b0;
    uint32_t b1;
    if constexpr (kTransposed) {
      ptx::load_matrix_transposed(from, a0, a1, b0, b1);
    } else {
      ptx::load_matrix(from, a0, a1, b0, b1);
    }
    ptx::mma(sums[first], w.matrix(first), a0, a1);
    ptx::mma(sums[first + 1], w.matrix(first + 1), b0, b1);
  }

  // Eight matrices at (row lane / 4 + 8 half, column 2 (lane % 4) + odd).
  __device__ static uint4 rounded(const Sums& s, int half, int odd) {
    const int i = 2 * half + odd;
    return {
        ptx::round_pair(s[0][i], s[1][i]),
        ptx::round_pair(s[2][i], s[3][i]),
        ptx::round_pair(s[4][i], s[5][i]),
        ptx::round_pair(s[6][i], s[7][i])};
  }

  // Lanes of ldmatrix: 16 of depth for one matrix, 16 for the next.
  __device__ int lane_matrix() const { return lane / 16; }
  __device__ int lane_deep() const { return lane % 16; }

  // dz of an octet of gammas and one of phis: for each phi, tokens x epsilon
  // times epsilon x gammas.
  __device__ void make_dz(int unit, uint32_t dy) const {
    const int octet = unit / kPhiOctets;
    const int phis = unit % kPhiOctets;
    uint32_t from[2];
#pragma unroll
    for (int odd = 0; odd < 2; ++odd) {
      from[odd] = dy + vector_offset<kPhiOctets, kEpsilon>(
                           phis, lane / 4, 2 * (lane % 4) + odd);
    }
    const uint32_t weights =
        b_shared +
        static_cast<uint32_t>(
            ((octet * Tile::kPhi + phis * kVector + lane_matrix()) * kEpsilon +
             lane_deep()) *
            16);
    Sums sums;
    clear(sums);
#pragma unroll 1
    for (int step = 0; step < kEpsilon / 16; ++step) {
      Operands w;
      w.load(from, 8 * kEpsilon * 16, 8 * 16);
#pragma unroll
      for (int i = 0; i < 8; i += 2) {
        multiply_two<true>(
            sums,
            w,
            i,
            weights + static_cast<uint32_t>((i * kEpsilon + step * 16) * 16));
      }
      from[0] += 256;
      from[1] += 256;
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint32_t to =
            dz_shared +
            z_offset(octet, phis * kVector + i, lane / 4 + 8 * half) +
            static_cast<uint32_t>(lane % 4 * 4);
        store_word(
            to, ptx::round_pair(sums[i][2 * half], sums[i][2 * half + 1]));
      }
    }
  }

  // z of an octet of gammas and one of phis: for each gamma, tokens x alpha
  // times alpha x phis.
  __device__ void make_z(int unit, uint32_t x) const {
    const int octet = unit / kPhiOctets;
    const int phis = unit % kPhiOctets;
    uint32_t from[2];
#pragma unroll
    for (int odd = 0; odd < 2; ++odd) {
      from[odd] = x + vector_offset<kOctets, kAlpha>(
                          octet, lane / 4, 2 * (lane % 4) + odd);
    }
    const uint32_t weights =
        a_shared + a_offset(octet * kVector + lane_matrix(), lane_deep(), phis);
    Sums sums;
    clear(sums);
#pragma unroll 1
    for (int step = 0; step < kAlpha / 16; ++step) {
      Operands w;
      w.load(from, 8 * kAlpha * 16, 8 * 16);
#pragma unroll
      for (int i = 0; i < 8; i += 2) {
        multiply_two<true>(
            sums,
            w,
            i,
            weights + static_cast<uint32_t>(
                          (i * kAlpha + step * 16) * kPhiOctets * 16));
      }
      from[0] += 256;
      from[1] += 256;
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int odd = 0; odd < 2; ++odd) {
        ptx::store_shared(
            z_shared + z_offset(
                           octet,
                           phis * kVector + 2 * (lane % 4) + odd,
                           lane / 4 + 8 * half),
            rounded(sums, half, odd));
      }
    }
  }

  // dx of an octet of gammas and eight alphas: for each gamma, tokens x phi
  // times phi x alphas.
  __device__ void make_dx(int unit, int64_t first_token) const {
    const int octet = unit / (kAlpha / 8);
    const int alphas = unit % (kAlpha / 8) * 8;
    uint32_t from[2];
#pragma unroll
    for (int odd = 0; odd < 2; ++odd) {
      from[odd] = dz_shared + z_offset(octet, 2 * (lane % 4) + odd, lane / 4);
    }
    Sums sums;
    clear(sums);
#pragma unroll
    for (int step = 0; step < Tile::kPhi / 16; ++step) {
      Operands w;
      w.load(from, 8 * 16, 8 * kTokens * 16);
      const uint32_t weights = a_shared + a_offset(
                                              octet * kVector + lane_matrix(),
                                              alphas + lane % 8,
                                              2 * step + lane_deep() / 8);
#pragma unroll
      for (int i = 0; i < 8; i += 2) {
        multiply_two<false>(
            sums,
            w,
            i,
            weights + static_cast<uint32_t>(i * kAlpha * kPhiOctets * 16));
      }
      from[0] += 16 * kTokens * 16;
      from[1] += 16 * kTokens * 16;
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t token = first_token + lane / 4 + 8 * half;
#pragma unroll
      for (int odd = 0; odd < 2; ++odd) {
        if (token < p.tokens) {
          *reinterpret_cast<uint4*>(
              p.dx +
              (token * kAlpha + alphas + 2 * (lane % 4) + odd) * p.sizes.gamma +
              first_gamma + octet * kVector) = rounded(sums, half, odd);
        }
      }
    }
  }

  // Rows of 16 of x or dy with the tokens as depth.
  template <int kCount, int kRows>
  __device__ __forceinline__ void load_by_token(
      Operands& w, uint32_t tile, int octet, int row_tile) const {
    uint32_t from[2];
#pragma unroll
    for (int odd = 0; odd < 2; ++odd) {
      from[odd] =
          tile + vector_offset<kCount, kRows>(
                     octet, 2 * (lane % 4) + odd, row_tile * 16 + lane / 4);
    }
    w.load(from, 8 * 16, 8 * kRows * 16);
  }

  // A warp's units follow each other, first along the phis, so that they
  // share rows of x.
  __device__ void add_da(uint32_t x) {
    static_assert(kPhiOctets % Tile::kWarpUnitsA == 0);
    Operands w;
#pragma unroll
    for (int n = 0; n < Tile::kWarpUnitsA; ++n) {
      const int unit = warp * Tile::kWarpUnitsA + n;
      const int phis = unit % kPhiOctets;
      const int row_tile = unit / kPhiOctets % (kAlpha / 16);
      const int octet = unit / kPhiOctets / (kAlpha / 16);
      if (n == 0) {
        load_by_token<kOctets, kAlpha>(w, x, octet, row_tile);
      }
      uint4 v[2][2];  // [eight tokens][odd token]
#pragma unroll
      for (int odd = 0; odd < 2; ++odd) {
        const uint32_t from =
            dz_shared +
            z_offset(octet, phis * kVector + lane / 4, 2 * (lane % 4) + odd);
        v[0][odd] = ptx::load_shared(from);
        v[1][odd] = ptx::load_shared(from + 8 * 16);
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        ptx::mma(a_sums[n][i], w.matrix(i), paired(i, v[0]), paired(i, v[1]));
      }
    }
  }

  __device__ void add_db(uint32_t dy) {
    Operands w;
#pragma unroll
    for (int n = 0; n < Tile::kWarpUnitsB; ++n) {
      const int unit = warp * Tile::kWarpUnitsB + n;
      const int octet = unit % kOctets;
      const int row_tile = unit / kOctets % (kEpsilon / 16);
      const int phis = unit / kOctets / (kEpsilon / 16);
      if (Tile::kUnitsB % kWarps != 0 && unit >= Tile::kUnitsB) {
        return;
      }
      if (n % kOctets == 0) {  // the octets share rows of dy
        load_by_token<kPhiOctets, kEpsilon>(w, dy, phis, row_tile);
      }
#pragma unroll
      for (int i = 0; i < 8; i += 2) {
        multiply_two<true>(
            b_sums[n],
            w,
            i,
            z_shared +
                z_offset(
                    octet, phis * kVector + i + lane_matrix(), lane_deep()));
      }
    }
  }

  // --- partial sums ----------------------------------------------------------

  __device__ void store_da() const {
    const BttSizes& s = p.sizes;
#pragma unroll
    for (int n = 0; n < Tile::kWarpUnitsA; ++n) {
      const int unit = warp * Tile::kWarpUnitsA + n;
      const int phis = unit % kPhiOctets;
      const int row_tile = unit / kPhiOctets % (kAlpha / 16);
      const int octet = unit / kPhiOctets / (kAlpha / 16);
      const int phi = first_phi + phis * kVector + 2 * (lane % 4);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int64_t gamma = first_gamma + octet * kVector + i;
          const int64_t row =
              (static_cast<int64_t>(split) * s.gamma + gamma) * kAlpha +
              row_tile * 16 + lane / 4 + 8 * half;
          *reinterpret_cast<float2*>(
              p.a_partials + (row * s.rho + r) * s.phi + phi) = {
              a_sums[n][i][2 * half], a_sums[n][i][2 * half + 1]};
        }
      }
    }
  }

  __device__ void store_db() const {
    const BttSizes& s = p.sizes;
#pragma unroll
    for (int n = 0; n < Tile::kWarpUnitsB; ++n) {
      const int unit = warp * Tile::kWarpUnitsB + n;
      const int octet = unit % kOctets;
      const int row_tile = unit / kOctets % (kEpsilon / 16);
      const int phis = unit / kOctets / (kEpsilon / 16);
      const int gamma = first_gamma + octet * kVector + 2 * (lane % 4);
      if (Tile::kUnitsB % kWarps != 0 && unit >= Tile::kUnitsB) {
        return;
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int64_t phi = first_phi + phis * kVector + i;
          const int64_t row =
              (static_cast<int64_t>(split) * s.phi + phi) * kEpsilon +
              row_tile * 16 + lane / 4 + 8 * half;
          *reinterpret_cast<float2*>(
              p.b_partials + (row * s.rho + r) * s.gamma + gamma) = {
              b_sums[n][i][2 * half], b_sums[n][i][2 * half + 1]};
        }
      }
    }
  }

  // z by the first warps and dx by the others, or both by all.
  __device__ void second_phase(uint32_t x, int64_t first_token) {
    constexpr int kZUnits = kOctets * kPhiOctets;
    constexpr int kDxUnits = kOctets * kAlpha / 8;
    constexpr bool kSplit = kZUnits < kWarps;
    if (warp < kZUnits) {
      make_z(warp, x);
    }
    forget_addresses();
    constexpr int kDxWarps = kSplit ? kWarps - kZUnits : kWarps;
    const int first = kSplit ? warp - kZUnits : warp;
    if (p.dx != nullptr && first >= 0) {
#pragma unroll 1
      for (int unit = first; unit < kDxUnits; unit += kDxWarps) {
        make_dx(unit, first_token);
      }
    }
  }

  __device__ void run() {
    static_assert(Tile::kUnitsA % kWarps == 0);
    static_assert(kOctets * kPhiOctets <= kWarps);
    const int tiles = static_cast<int>((p.tokens + kTokens - 1) / kTokens);
    const auto first_token = [&](int tile) {
      return static_cast<int64_t>(tile) * kTokens;
    };
    constexpr bool kAhead = Tile::kXBuffers == 2;
    if (split < tiles) {
      load_dy(first_token(split), 0);
      if (kAhead) {
        load_x(first_token(split), 0);
      }
    }
    ptx::copy_async_commit();
    load_weights();
#pragma unroll
    for (int n = 0; n < Tile::kWarpUnitsA; ++n) {
      clear(a_sums[n]);
    }
#pragma unroll
    for (int n = 0; n < Tile::kWarpUnitsB; ++n) {
      clear(b_sums[n]);
    }
    int buffer = 0;
#pragma unroll 1
    for (int tile = split; tile < tiles; tile += p.splits) {
      ptx::copy_async_wait<0>();
      __syncthreads();  // dy is here, and nobody reads the last tile's any more
      forget_addresses();
      const int next = tile + p.splits;
      if (!kAhead) {
        load_x(first_token(tile), 0);
        ptx::copy_async_commit();
      }
      if (next < tiles) {
        load_dy(first_token(next), buffer ^ 1);
        if (kAhead) {
          load_x(first_token(next), buffer ^ 1);
        }
      }
      ptx::copy_async_commit();
      const uint32_t dy =
          dy_shared + static_cast<uint32_t>(buffer * Tile::kDyBytes);
      const uint32_t x =
          x_shared + static_cast<uint32_t>(kAhead ? buffer * Tile::kXBytes : 0);
      forget_addresses();
      if (warp < kOctets * kPhiOctets) {
        make_dz(warp, dy);
      }
      if (!kAhead) {
        ptx::copy_async_wait<1>();
      }
      __syncthreads();  // dz is here, and x
      forget_addresses();
      second_phase(x, first_token(tile));
      __syncthreads();  // z is here
      forget_addresses();
      add_da(x);
      forget_addresses();
      add_db(dy);
      buffer ^= 1;
    }
    store_da();
    store_db();
  }
};

template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads, 1)
    btt_backward_partials(const __grid_constant__ BttBackwardParams params) {
  extern __shared__ uint4 shared[];
  BttBackward<Tile> kernel(params, ptx::shared_address(shared));
  kernel.run();
}

}  // namespace einforge::kernels::cuda
