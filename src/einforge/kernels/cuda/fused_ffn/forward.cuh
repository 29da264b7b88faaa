#pragma once

#include "einforge/kernels/cuda/fused_ffn/common.cuh"
#include "einforge/kernels/cuda/fused_ffn/params.h"
#include "einforge/kernels/cuda/ptx_async.cuh"

// Both layers of a feed-forward network and the GELU between them: reads x,
// writes y. docs/design/fused_ffn.md.
//
// A block has a tile of tokens; weights come from L2 as packed fragments, once
// a tile, into registers. In the first and the last stage weights are the
// m16k16 operand of mma.sync and eight tokens its n; between, 16 tokens are m,
// so that the sums of one product are the operand of the next, and a warp has
// a p to itself: z2 of a token overwrites the z1 that its lane has read.
namespace einforge::kernels::cuda::fused_ffn {

template <FfnShape S>
struct Forward {
  static constexpr int kWarps = kForwardWarps;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kRowBytes = S.tokens * 64;  // of all tokens of a p
  // Units of the first stage that a warp has.
  static constexpr int kInUnits = (S.in_units() + kWarps - 1) / kWarps;
  // Warps that share a unit of the last stage.
  static constexpr int kOutGroups = kWarps / S.out_units();
  static constexpr int kHiddenTiles = S.hidden / 8;
  static constexpr int kInHalves = S.in_vectors() > 2 ? 2 : 1;  // of 16 gammas
  static_assert(S.out_units() <= kWarps);
  static_assert(S.out_tiles() * 16 <= S.middle);

  using InWeights = uint4[kInUnits][S.in_steps()][8];
  using OutWeights = uint4[S.out_steps()][4];

  const FfnParams& p;
  const uint4* packed;
  uint32_t shared;
  int lane;
  int warp;
  int64_t end;  // of this block's tokens

  __device__ Forward(const FfnParams& params, uint32_t address)
      : p(params),
        packed(static_cast<const uint4*>(params.packed)),
        shared(address) {
    lane = static_cast<int>(threadIdx.x) % 32;
    warp = ptx::warp_uniform(static_cast<int>(threadIdx.x) / 32);
  }

  // Where a vector of a row p and a token, or of a token and an alpha, lies, so
  // that all accesses are free of bank conflicts.
  __device__ uint32_t z_at(int row, int token, int vector) const {
    return shared + static_cast<uint32_t>(
                        row * kRowBytes + (token ^ (row & 1)) * 64 +
                        ((vector ^ (token >> 1) ^ (row >> 1)) & 3) * 16);
  }
  __device__ uint32_t x_at(int slot, int token, int alpha, int vector) const {
    return shared +
           static_cast<uint32_t>(
               S.z_bytes() + slot * S.slot_bytes() +
               token * (S.in_steps() * 16 * 64) + (alpha ^ (token & 1)) * 64 +
               ((vector ^ (alpha >> 1)) & 3) * 16);
  }

  // Eight tokens of x, zeros past the last.
  __device__ void load_x(int64_t first, int slot) const {
    constexpr int kRow = S.alpha * S.in_vectors();
    constexpr int kAll = 8 * kRow;
    const auto tokens = static_cast<int>(min(end - first, int64_t{8}));
    const auto* from = reinterpret_cast<const uint4*>(p.x) + first * kRow;
#pragma unroll
    for (int j = 0; j < (kAll + kThreads - 1) / kThreads; ++j) {
      const int i = static_cast<int>(threadIdx.x) + j * kThreads;
      if (kAll % kThreads == 0 || i < kAll) {
        const int token = i / kRow;
        const int at = i % kRow;
        const bool valid = token < tokens;
        ptx::copy_async(
            x_at(slot, token, at / S.in_vectors(), at % S.in_vectors()),
            valid ? from + i : reinterpret_cast<const uint4*>(p.x),
            valid);
      }
    }
  }

  // A tile of x to L2.
  __device__ void prefetch_x(int64_t first) const {
    const int64_t tokens = min(end - first, int64_t{S.tokens});
    if (threadIdx.x == 0 && tokens > 0) {
      constexpr int kRow = S.alpha * S.gamma;
      prefetch_l2(p.x + first * kRow, static_cast<int>(tokens) * kRow * 2);
    }
  }

  __device__ void load_weights(InWeights& w) const {
#pragma unroll
    for (int u = 0; u < kInUnits; ++u) {
      const int unit = warp + kWarps * u;
      if (S.in_units() % kWarps == 0 || unit < S.in_units()) {
#pragma unroll
        for (int s = 0; s < S.in_steps(); ++s) {
#pragma unroll
          for (int b = 0; b < 8; ++b) {
            w[u][s][b] = load_packed(
                packed + ((unit * S.in_steps() + s) * 8 + b) * 32 + lane);
          }
        }
      }
    }
  }

  // z1 of eight tokens.
  __device__ void first_stage(
      const InWeights& w, int slot, int token_tile) const {
    const int q = lane % 4;
#pragma unroll
    for (int u = 0; u < kInUnits; ++u) {
      const int unit = warp + kWarps * u;
      if (S.in_units() % kWarps != 0 && unit >= S.in_units()) {
        break;
      }
      const int vector = unit % S.in_vectors();
      const int tile = unit / S.in_vectors();
      // Of an even and an odd alpha of this lane; the others are a constant
      // further on, as they are for z1 below.
      const uint32_t from[2] = {
          x_at(slot, lane / 4, 2 * q, vector),
          x_at(slot, lane / 4, 2 * q + 1, vector)};
      float sums[8][4] = {};
#pragma unroll
      for (int s = 0; s < S.in_steps(); ++s) {
        uint4 x[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          x[i] = ptx::load_shared(
              from[i % 2] + static_cast<uint32_t>((2 * s + i / 2) * 8 * 64));
        }
#pragma unroll
        for (int b = 0; b < 8; ++b) {
          ptx::mma(
              sums[b],
              w[u][s][b],
              pair(b, ptx::word(x[0], b / 2), ptx::word(x[1], b / 2)),
              pair(b, ptx::word(x[2], b / 2), ptx::word(x[3], b / 2)));
        }
      }
      const uint32_t to[2] = {
          z_at(16 * tile + lane / 4, 2 * q, vector),
          z_at(16 * tile + lane / 4, 2 * q + 1, vector)};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        ptx::store_shared(
            to[i % 2] + static_cast<uint32_t>(
                            token_tile * 8 * 64 + i / 2 * 8 * kRowBytes),
            {ptx::round_pair(sums[0][i], sums[1][i]),
             ptx::round_pair(sums[2][i], sums[3][i]),
             ptx::round_pair(sums[4][i], sums[5][i]),
             ptx::round_pair(sums[6][i], sums[7][i])});
      }
    }
  }

  // Element b of two vectors, of which these are the words.
  __device__ static uint32_t pair(int b, uint32_t first, uint32_t second) {
    return b % 2 == 0 ? ptx::low_pair(first, second)
                      : ptx::high_pair(first, second);
  }

  // Of 16 hidden features of one p.
  struct MiddleWeights {
    uint4 b1[2];
    uint4 a2[2];

    __device__ void load(const uint4* row_fragments, int step) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        b1[i] = load_packed(row_fragments + (2 * step + i) * 32);
        a2[i] = load_packed(row_fragments + (kHiddenTiles + 2 * step + i) * 32);
      }
    }
  };

  // Of 16 kTiles tokens.
  template <int kTiles>
  __device__ __forceinline__ void middle() const {
    constexpr int kSteps = S.hidden / 16;
    constexpr int kFragments = S.middle_fragments() * 32;  // of a row
    const int q = lane % 4;
    const bool has_out = S.out_vectors() == 4 || q < S.out_vectors();
    const uint4* fragments =
        packed + S.middle_first() + warp * kFragments + lane;
    const uint4* biases = packed + S.bias_first() + warp * S.bias_words() +
                          q * (S.bias_words() / 4);
    // A warp's rows agree in all that a lane's place in them depends on. Lanes
    // 8i to 8i + 7 read the rows of matrix i: eight tokens, eight more, and
    // the same of the next vector; a lane writes token lane / 4, and eight
    // later.
    uint32_t from[2] = {
        z_at(warp, lane % 16, lane / 16), z_at(warp, lane % 16, lane / 16 + 2)};
    uint32_t to = z_at(warp, lane / 4, q);
    MiddleWeights next;
    uint4 next_bias{0, 0, 0, 0};
    if (warp < S.middle) {
      next.load(fragments, 0);
      next_bias = load_packed(biases);
    }
#pragma unroll 1
    for (int row = warp; row < S.middle; row += kWarps) {
      float z2[kTiles][4][4] = {};
      uint4 bias;
#pragma unroll
      for (int s = 0; s < kSteps; ++s) {
        const MiddleWeights w = next;
        if (s % 2 == 0) {
          bias = next_bias;
        }
        if (s + 1 < kSteps || row + kWarps < S.middle) {
          const bool same = s + 1 < kSteps;
          next.load(
              same ? fragments : fragments + kWarps * kFragments,
              same ? s + 1 : 0);
          if (!same || s % 2 == 1) {
            next_bias = load_packed(
                same ? biases + (s + 1) / 2 : biases + kWarps * S.bias_words());
          }
        }
        float start[2][4];
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const uint32_t b = ptx::word(bias, s % 2 * 2 + j);
          start[j][0] = start[j][2] = __uint_as_float(b << 16);
          start[j][1] = start[j][3] = __uint_as_float(b & 0xFFFF0000U);
        }
#pragma unroll
        for (int t = 0; t < kTiles; ++t) {
          uint4 z1[2];
#pragma unroll
          for (int i = 0; i < kInHalves; ++i) {
            ptx::load_matrix(
                from[i] + static_cast<uint32_t>(t * 16 * 64),
                z1[i].x,
                z1[i].y,
                z1[i].z,
                z1[i].w);
          }
          uint32_t h[4];
#pragma unroll
          for (int j = 0; j < 2; ++j) {
            float sums[4];
            mma_from(sums, z1[0], w.b1[j].x, w.b1[j].y, start[j]);
            if constexpr (kInHalves == 2) {
              ptx::mma(sums, z1[1], w.b1[j].z, w.b1[j].w);
            }
            h[2 * j] =
                ptx::round_pair(gelu_of_half(sums[0]), gelu_of_half(sums[1]));
            h[2 * j + 1] =
                ptx::round_pair(gelu_of_half(sums[2]), gelu_of_half(sums[3]));
          }
          const uint4 hidden{h[0], h[1], h[2], h[3]};
#pragma unroll
          for (int j = 0; j < 2; ++j) {
            ptx::mma(z2[t][2 * j], hidden, w.a2[j].x, w.a2[j].y);
            ptx::mma(z2[t][2 * j + 1], hidden, w.a2[j].z, w.a2[j].w);
          }
        }
      }
      __syncwarp();  // all lanes have read what is overwritten
      if (has_out) {
#pragma unroll
        for (int t = 0; t < kTiles; ++t) {
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            ptx::store_shared(
                to + static_cast<uint32_t>((2 * t + i) * 8 * 64),
                {ptx::round_pair(z2[t][0][2 * i], z2[t][0][2 * i + 1]),
                 ptx::round_pair(z2[t][1][2 * i], z2[t][1][2 * i + 1]),
                 ptx::round_pair(z2[t][2][2 * i], z2[t][2][2 * i + 1]),
                 ptx::round_pair(z2[t][3][2 * i], z2[t][3][2 * i + 1])});
          }
        }
      }
      fragments += kWarps * kFragments;
      biases += kWarps * S.bias_words();
      from[0] += kWarps * kRowBytes;
      from[1] += kWarps * kRowBytes;
      to += kWarps * kRowBytes;
    }
  }

  template <int kTiles>
  __device__ __forceinline__ void middle_of(int tiles) const {
    if constexpr (kTiles > 1) {
      if (tiles < kTiles) {
        middle_of<kTiles - 1>(tiles);
        return;
      }
    }
    middle<kTiles>();
  }

  // Of half a vector of phi and 16 epsilons.
  __device__ void load_weights(OutWeights& w) const {
    const uint4* from = packed + S.out_first() +
                        warp % S.out_units() * S.out_steps() * 4 * 32 + lane;
#pragma unroll
    for (int s = 0; s < S.out_steps(); ++s) {
#pragma unroll
      for (int b = 0; b < 4; ++b) {
        w[s][b] = load_packed(from + (s * 4 + b) * 32);
      }
    }
  }

  // y into the places of the z2 that it is made of.
  __device__ void last_stage(const OutWeights& w, int token_tiles) const {
    const int unit = warp % S.out_units();
    const int group = warp / S.out_units();
    if (group >= kOutGroups) {
      return;
    }
    const int half = unit % (2 * S.out_vectors());
    const int tile = unit / (2 * S.out_vectors());
    const int q = lane % 4;
    const auto half_bytes = static_cast<uint32_t>(half % 2 * 8);
    float bias[2][4] = {};
    if (p.bias2 != nullptr) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int row = 16 * tile + lane / 4 + 8 * i;
        if (S.epsilon % 16 == 0 || row < S.epsilon) {
          const uint2 v = __ldg(
              reinterpret_cast<const uint2*>(p.bias2) +
              row * 2 * S.out_vectors() + half);
          ptx::add_pair(bias[i][0], bias[i][1], v.x);
          ptx::add_pair(bias[i][2], bias[i][3], v.y);
        }
      }
    }
    const uint32_t from[2] = {
        z_at(2 * q, lane / 4, half / 2) + half_bytes,
        z_at(2 * q + 1, lane / 4, half / 2) + half_bytes};
    const uint32_t to[2] = {
        z_at(16 * tile + lane / 4, 2 * q, half / 2) + half_bytes,
        z_at(16 * tile + lane / 4, 2 * q + 1, half / 2) + half_bytes};
#pragma unroll 1
    for (int t = group; t < token_tiles; t += kOutGroups) {
      const auto token = static_cast<uint32_t>(t * 8 * 64);
      float sums[4][4];
#pragma unroll
      for (int b = 0; b < 4; ++b) {
        sums[b][0] = sums[b][1] = bias[0][b];
        sums[b][2] = sums[b][3] = bias[1][b];
      }
#pragma unroll
      for (int s = 0; s < S.out_steps(); ++s) {
        uint2 z[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          z[i] = load_shared_half(
              from[i % 2] + token +
              static_cast<uint32_t>((2 * s + i / 2) * 8 * kRowBytes));
        }
        const auto word = [&](int i, int b) {
          return b / 2 == 0 ? z[i].x : z[i].y;
        };
#pragma unroll
        for (int b = 0; b < 4; ++b) {
          ptx::mma(
              sums[b],
              w[s][b],
              pair(b, word(0, b), word(1, b)),
              pair(b, word(2, b), word(3, b)));
        }
      }
      // Until the warps of the same phis have read these tokens.
      if constexpr (S.out_tiles() == 1) {
        __syncwarp();
      } else {
        ptx::named_barrier(
            1 + group * 2 * S.out_vectors() + half, 32 * S.out_tiles());
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        ptx::store_shared_half(
            to[i % 2] + token + static_cast<uint32_t>(i / 2 * 8 * kRowBytes),
            ptx::round_pair(sums[0][i], sums[1][i]),
            ptx::round_pair(sums[2][i], sums[3][i]));
      }
    }
  }

  __device__ void store_y(int64_t first, int tokens) const {
    constexpr int kRow = S.epsilon * S.out_vectors();
    const int count = tokens * kRow;
    auto* to = reinterpret_cast<uint4*>(p.y) + first * kRow;
#pragma unroll 4
    for (int i = static_cast<int>(threadIdx.x); i < count; i += kThreads) {
      const int at = i % kRow;
      to[i] = ptx::load_shared(
          z_at(at / S.out_vectors(), i / kRow, at % S.out_vectors()));
    }
  }

  __device__ void run() {
    // Whole 16 tokens, as many for each block as can be.
    const int64_t sixteens = (p.tokens + 15) / 16;
    int64_t first = 16 * (sixteens * blockIdx.x / gridDim.x);
    end = min(16 * (sixteens * (blockIdx.x + 1) / gridDim.x), p.tokens);
#pragma unroll
    for (int i = 0; i < S.slots - 1; ++i) {
      load_x(first + 8 * i, i);
      ptx::copy_async_commit();
    }
    if constexpr (S.in_steps() * 16 != S.alpha) {
      // Past alpha, zeros, which no copy writes.
      constexpr int kMore = S.in_steps() * 16 - S.alpha;
      for (int i = static_cast<int>(threadIdx.x); i < S.slots * 8 * kMore * 4;
           i += kThreads) {
        ptx::store_shared(
            x_at(
                i / (32 * kMore),
                i / (4 * kMore) % 8,
                S.alpha + i / 4 % kMore,
                i % 4),
            {0, 0, 0, 0});
      }
    }
    if constexpr (S.in_vectors() % 2 != 0) {
      // Read as gammas that are not there, times zero.
      for (int i = static_cast<int>(threadIdx.x); i < S.z_bytes() / 16;
           i += kThreads) {
        ptx::store_shared(shared + 16 * static_cast<uint32_t>(i), {0, 0, 0, 0});
      }
    }
    InWeights in_weights;
    load_weights(in_weights);
    int slot = 0;
#pragma unroll 1
    for (; first < end; first += S.tokens) {
      const auto tokens = static_cast<int>(min(end - first, int64_t{S.tokens}));
      const int sixteens_here = (tokens + 15) / 16;
#pragma unroll 1
      for (int t = 0; t < 2 * sixteens_here; ++t) {
        ptx::copy_async_wait<S.slots - 2>();
        __syncthreads();
        load_x(
            first + 8 * (t + S.slots - 1), slot == 0 ? S.slots - 1 : slot - 1);
        ptx::copy_async_commit();
        first_stage(in_weights, slot, t);
        slot = slot + 1 == S.slots ? 0 : slot + 1;
      }
      __syncthreads();
      prefetch_x(first + S.tokens);
      middle_of<S.tokens / 16>(sixteens_here);
      OutWeights out_weights;
      load_weights(out_weights);
      __syncthreads();
      last_stage(out_weights, 2 * sixteens_here);
      load_weights(in_weights);
      __syncthreads();
      store_y(first, tokens);
      __syncthreads();
    }
    ptx::copy_async_wait<0>();
  }
};

template <FfnShape S>
__device__ __forceinline__ void run_forward(const FfnParams& params) {
  extern __shared__ uint4 shared[];
  Forward<S> forward(params, ptx::shared_address(shared));
  forward.run();
}

}  // namespace einforge::kernels::cuda::fused_ffn
