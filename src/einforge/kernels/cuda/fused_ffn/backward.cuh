#pragma once

#include "einforge/kernels/cuda/fused_ffn/common.cuh"
#include "einforge/kernels/cuda/fused_ffn/params.h"
#include "einforge/kernels/cuda/ptx.cuh"

// The middle of a feed-forward network's backward pass, docs/design/
// fused_ffn.md: for each p, of z1 and dz2,
//
//   h = z1 B1 + bias1,   dh = (dz2 A2^T) gelu'(h)
//   z2 = gelu(h) A2,     dz1 = dh B1^T
//   dB1 = sum z1^T dh,   dA2 = sum gelu(h)^T dz2,   dbias1 = sum dh
//
// A warp has a p; a block has eight, with their cores in shared memory, the
// sums of the gradients in registers, and every splits-th tile of tokens.
// Tokens are m of mma.sync in the first four products and the depth of the
// last two. Results take the places of operands and leave as vectors of eight
// p.
namespace einforge::kernels::cuda::fused_ffn {

template <MiddleShape S>
struct Middle {
  static constexpr int kHiddenTiles = S.hidden / 8;
  static constexpr int kThreads = 32 * kMiddleWarps;
  static_assert(S.tokens == 16);  // two vectors of eight rows a thread

  const MiddleParams& p;
  uint32_t shared;
  int lane;
  int warp;
  int row_block;
  int split;
  int tiles;

  // Of two rows of 16 columns: sums[i][j] has rows 16 i and columns 8 j.
  using Sums = float[2][kHiddenTiles][4];

  __device__ Middle(const MiddleParams& params, uint32_t address)
      : p(params), shared(address) {
    lane = static_cast<int>(threadIdx.x) % 32;
    warp = ptx::warp_uniform(static_cast<int>(threadIdx.x) / 32);
    row_block = static_cast<int>(blockIdx.x) % S.row_blocks();
    split = static_cast<int>(blockIdx.x) / S.row_blocks();
    tiles = (p.tokens + S.tokens - 1) / S.tokens;
  }

  // Half 0 is z1 or dz1, half 1 dz2 or z2. Of a slot, so that its address is a
  // multiple of 128: rows of one p are tokens, swizzled such that all accesses
  // are free of bank conflicts. Indices that differ by a known number are the
  // exclusive or of a known number apart.
  __device__ uint32_t slot_at(int slot) const {
    return shared +
           static_cast<uint32_t>(S.core_bytes() + slot * S.slot_bytes());
  }
  __device__ static uint32_t place(int row, int token, int vector) {
    return static_cast<uint32_t>(
        row * (S.tokens * 64) + (token ^ (row & 1)) * 64 +
        ((vector ^ (token >> 1) ^ (row >> 1)) & 3) * 16);
  }

  // One vector of each thread for every two vectors of eight columns.
  template <int kVectors>
  __device__ void load_half(
      const void* from, int tile, uint32_t slot, bool valid) const {
    const int thread = static_cast<int>(threadIdx.x);
    const int row = thread % 8;
    const int token = thread / 8 % S.tokens;
    const int vector = thread / 8 / S.tokens;
    const uint32_t to = slot + place(row, token, vector);
    const uint4* at = static_cast<const uint4*>(from) +
                      (valid ? (static_cast<int64_t>(vector) * p.tokens +
                                tile * S.tokens + token) *
                                       S.middle +
                                   8 * row_block + row
                             : 0);
#pragma unroll
    for (int j = 0; 2 * j < kVectors; ++j) {
      if (2 * j + 1 < kVectors || vector == 0) {
        ptx::copy_async(
            to ^ static_cast<uint32_t>(2 * j * 16),
            valid ? at + 2 * j * static_cast<int64_t>(p.tokens) * S.middle : at,
            valid);
      }
    }
  }

  __device__ void load_tile(int tile, int slot) const {
    const bool valid =
        tile * S.tokens + static_cast<int>(threadIdx.x) / 8 % S.tokens <
        p.tokens;
    load_half<S.gamma / 8>(p.z1, tile, slot_at(slot), valid);
    load_half<S.phi / 8>(p.dz2, tile, slot_at(slot) + S.half_bytes(), valid);
  }

  // 16 tokens and 16 gammas or phis.
  __device__ static uint4 load_tokens(uint32_t from) {
    uint4 v;
    ptx::load_matrix(from, v.x, v.y, v.z, v.w);
    return v;
  }
  // Of a lane token lane / 4 and eight later.
  __device__ static void store_rows(uint32_t to, const float (&sums)[4][4]) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      ptx::store_shared(
          to + static_cast<uint32_t>(i * 8 * 64),
          {ptx::round_pair(sums[0][2 * i], sums[0][2 * i + 1]),
           ptx::round_pair(sums[1][2 * i], sums[1][2 * i + 1]),
           ptx::round_pair(sums[2][2 * i], sums[2][2 * i + 1]),
           ptx::round_pair(sums[3][2 * i], sums[3][2 * i + 1])});
    }
  }
  // The same as 16 rows along the depth.
  __device__ static uint4 load_transposed(uint32_t from) {
    uint4 v;
    ptx::load_matrix_transposed(from, v.x, v.y, v.z, v.w);
    return v;
  }

  __device__ uint4 core(int which, int tile) const {
    return ptx::load_shared(
        shared +
        static_cast<uint32_t>(
            ((warp * S.core_fragments() + which * kHiddenTiles + tile) * 32 +
             lane) *
            16));
  }

  // What a lane has of biases and of their sums: a vector for every four tiles
  // of hidden, and for every two.
  __device__ uint32_t bias_at() const {
    return shared +
           static_cast<uint32_t>(
               S.core_bytes() + S.slots * S.slot_bytes() + threadIdx.x * 16);
  }
  __device__ uint32_t sums_at() const {
    return bias_at() +
           static_cast<uint32_t>(S.bias_words() / 4 * kThreads * 16);
  }

  __device__ __forceinline__ void multiply(
      uint32_t slot, Sums& db1, Sums& da2) const {
    const uint32_t rows = slot + place(warp, lane / 4, lane % 4);
    const uint32_t columns =
        slot + place(warp, lane / 16 * 8 + lane % 8, lane / 8 % 2);
    const uint32_t tokens = slot + place(warp, lane % 16, lane / 16);
    uint4 z1[2];
    uint4 dz2[2];
    uint4 z1_t[2];
    uint4 dz2_t[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const auto next = static_cast<uint32_t>(2 * i * 16);
      z1[i] = load_tokens(tokens ^ next);
      dz2[i] = load_tokens((tokens ^ next) + S.half_bytes());
      z1_t[i] = load_transposed(columns ^ next);
      dz2_t[i] = load_transposed((columns ^ next) + S.half_bytes());
    }
    uint4 bias{0, 0, 0, 0};
    float z2[4][4] = {};
    float dz1[4][4] = {};
#pragma unroll
    for (int k = 0; k < kHiddenTiles / 2; ++k) {
      if (k % 2 == 0) {
        bias = ptx::load_shared(
            bias_at() + static_cast<uint32_t>(k / 2 * kThreads * 16));
      }
      const uint32_t sum_at =
          sums_at() + static_cast<uint32_t>(k * kThreads * 16);
      const uint4 dbias = ptx::load_shared(sum_at);
      float of_hidden[4] = {
          __uint_as_float(dbias.x),
          __uint_as_float(dbias.y),
          __uint_as_float(dbias.z),
          __uint_as_float(dbias.w)};
      uint32_t g[4];
      uint32_t dh[4];
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int tile = 2 * k + j;
        const uint32_t pair = ptx::word(bias, tile % 4);
        float h[4];
        h[0] = h[2] = __uint_as_float(pair << 16);
        h[1] = h[3] = __uint_as_float(pair & 0xFFFF0000U);
        const uint4 b1 = core(0, tile);
        ptx::mma(h, z1[0], b1.x, b1.y);
        ptx::mma(h, z1[1], b1.z, b1.w);
        float d[4] = {};
        const uint4 a2 = core(1, tile);
        ptx::mma(d, dz2[0], a2.x, a2.y);
        ptx::mma(d, dz2[1], a2.z, a2.w);
        float values[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const GeluAndSlope gelu = gelu_and_slope_of_half(h[i]);
          values[i] = gelu.value;
          d[i] *= gelu.slope;
        }
        of_hidden[2 * j] += d[0] + d[2];
        of_hidden[2 * j + 1] += d[1] + d[3];
        g[2 * j] = ptx::round_pair(values[0], values[1]);
        g[2 * j + 1] = ptx::round_pair(values[2], values[3]);
        dh[2 * j] = ptx::round_pair(d[0], d[1]);
        dh[2 * j + 1] = ptx::round_pair(d[2], d[3]);
      }
      ptx::store_shared(
          sum_at,
          {__float_as_uint(of_hidden[0]),
           __float_as_uint(of_hidden[1]),
           __float_as_uint(of_hidden[2]),
           __float_as_uint(of_hidden[3])});
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const uint4 a2 = core(2, 2 * k + j);
        ptx::mma(z2[2 * j], {g[0], g[1], g[2], g[3]}, a2.x, a2.y);
        ptx::mma(z2[2 * j + 1], {g[0], g[1], g[2], g[3]}, a2.z, a2.w);
        const uint4 b1 = core(3, 2 * k + j);
        ptx::mma(dz1[2 * j], {dh[0], dh[1], dh[2], dh[3]}, b1.x, b1.y);
        ptx::mma(dz1[2 * j + 1], {dh[0], dh[1], dh[2], dh[3]}, b1.z, b1.w);
      }
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const uint32_t dh_t[2] = {
            transposed(dh[2 * j]), transposed(dh[2 * j + 1])};
        const uint32_t g_t[2] = {
            transposed(g[2 * j]), transposed(g[2 * j + 1])};
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          ptx::mma(db1[i][2 * k + j], z1_t[i], dh_t[0], dh_t[1]);
          ptx::mma(da2[i][2 * k + j], dz2_t[i], g_t[0], g_t[1]);
        }
      }
    }
    __syncwarp();  // all lanes have read what is overwritten
    store_rows(rows, dz1);
    store_rows(rows + S.half_bytes(), z2);
  }

  // A tile of results, vectors of eight p. Two lanes share a sector of memory.
  template <int kColumns>
  __device__ void store_half(void* to, int tile, uint32_t slot) const {
    static_assert(kColumns % 8 == 0 && S.tokens * kColumns / 2 <= kThreads);
    const int i = static_cast<int>(threadIdx.x);
    const int token = i / (kColumns / 2);
    const int column = i % (kColumns / 2) * 2;
    if (S.tokens * kColumns / 2 < kThreads && token >= S.tokens) {
      return;
    }
    const uint32_t from = slot + place(0, token, column / 8) +
                          static_cast<uint32_t>(column % 8 * 2);
    uint32_t words[8];
#pragma unroll
    for (int row = 0; row < 8; ++row) {
      words[row] = ptx::load_shared_word(
          (from ^ static_cast<uint32_t>((row & 1) * 64 + (row >> 1 & 3) * 16)) +
          static_cast<uint32_t>(row * S.tokens * 64));
    }
    uint32_t mine[4];
    uint32_t other[4];
    const bool odd = lane % 2 != 0;
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      const uint32_t first = ptx::low_pair(words[2 * w], words[2 * w + 1]);
      const uint32_t second = ptx::high_pair(words[2 * w], words[2 * w + 1]);
      // The even lane has the first column of both, the odd the second.
      const uint32_t got =
          __shfl_xor_sync(0xFFFFFFFFU, odd ? first : second, 1);
      mine[w] = odd ? got : first;
      other[w] = odd ? second : got;
    }
    const int at = tile * S.tokens + token;
    if (at < p.tokens) {
      uint4* vectors =
          static_cast<uint4*>(to) +
          (static_cast<int64_t>(row_block) * p.tokens + at) * kColumns +
          column / 4 * 4 + lane % 2;
      vectors[0] = {mine[0], mine[1], mine[2], mine[3]};
      vectors[2] = {other[0], other[1], other[2], other[3]};
    }
  }

  // Sums of this block: rows i of 16 are gammas or phis, of which there are
  // kRows, columns are hidden.
  template <int kRows>
  __device__ void store_sums(float* to, const Sums& sums) const {
    float* of_row =
        to + (static_cast<int64_t>(split) * S.middle + 8 * row_block + warp) *
                 S.hidden * kRows;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int j = 0; j < kHiddenTiles; ++j) {
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          const int row = 16 * i + lane / 4 + 8 * (c / 2);
          const int hidden = 8 * j + 2 * (lane % 4) + c % 2;
          if (kRows == 32 || row < kRows) {
            of_row[hidden * kRows + row] = sums[i][j][c];
          }
        }
      }
    }
  }

  __device__ void run() {
    const auto* packed = static_cast<const uint4*>(p.packed);
    for (int i = static_cast<int>(threadIdx.x); i < S.core_bytes() / 16;
         i += kThreads) {
      ptx::copy_async(
          shared + 16 * static_cast<uint32_t>(i),
          packed + row_block * (S.core_bytes() / 16) + i,
          true);
    }
    if constexpr (S.gamma < 32 || S.phi < 32) {
      // What no copy writes is zeros.
      for (int i = static_cast<int>(threadIdx.x);
           i < S.slots * S.slot_bytes() / 16;
           i += kThreads) {
        ptx::store_shared(
            shared + static_cast<uint32_t>(S.core_bytes() + 16 * i),
            {0, 0, 0, 0});
      }
      __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < S.slots - 1; ++i) {
      load_tile(split + i * p.splits, i);
      ptx::copy_async_commit();
    }
#pragma unroll
    for (int i = 0; i < S.bias_words() / 4; ++i) {
      ptx::store_shared(
          bias_at() + static_cast<uint32_t>(i * kThreads * 16),
          load_packed(
              packed + S.bias_first() +
              (8 * row_block + warp) * S.bias_words() +
              lane % 4 * (S.bias_words() / 4) + i));
    }
#pragma unroll
    for (int i = 0; i < kHiddenTiles / 2; ++i) {
      ptx::store_shared(
          sums_at() + static_cast<uint32_t>(i * kThreads * 16), {0, 0, 0, 0});
    }
    Sums db1 = {};
    Sums da2 = {};
    int slot = 0;
#pragma unroll 1
    for (int tile = split; tile < tiles; tile += p.splits) {
      ptx::copy_async_wait<S.slots - 2>();
      __syncthreads();
      load_tile(
          tile + (S.slots - 1) * p.splits, slot == 0 ? S.slots - 1 : slot - 1);
      ptx::copy_async_commit();
      multiply(slot_at(slot), db1, da2);
      __syncthreads();
      store_half<S.gamma>(p.dz1, tile, slot_at(slot));
      store_half<S.phi>(p.z2, tile, slot_at(slot) + S.half_bytes());
      slot = slot + 1 == S.slots ? 0 : slot + 1;
    }
    ptx::copy_async_wait<0>();
    store_sums<S.gamma>(p.db1, db1);
    store_sums<S.phi>(p.da2, da2);
    float* to = p.dbias1 + (static_cast<int64_t>(split) * S.middle +
                            8 * row_block + warp) *
                               S.hidden;
#pragma unroll
    for (int k = 0; k < kHiddenTiles / 2; ++k) {
      const uint4 sums = ptx::load_shared(
          sums_at() + static_cast<uint32_t>(k * kThreads * 16));
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float sum = __uint_as_float(ptx::word(sums, i));
#pragma unroll
        for (int offset = 4; offset < 32; offset *= 2) {
          sum += __shfl_xor_sync(0xFFFFFFFFU, sum, offset);
        }
        if (lane < 4) {
          to[16 * k + 8 * (i / 2) + 2 * lane + i % 2] = sum;
        }
      }
    }
  }
};

template <MiddleShape S>
__device__ __forceinline__ void run_middle(const MiddleParams& params) {
  extern __shared__ uint4 shared[];
  Middle<S> middle(params, ptx::shared_address(shared));
  middle.run();
}

}  // namespace einforge::kernels::cuda::fused_ffn
