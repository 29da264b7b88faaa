#pragma once

#include "einforge/kernels/cuda/btt_linear.h"
#include "einforge/kernels/cuda/btt_linear_layout.h"
#include "einforge/kernels/cuda/ptx.cuh"

// The fused forward kernel; docs/design/btt_kernels.md draws it.
namespace einforge::kernels::cuda {

struct BttForwardParams {
  const __nv_bfloat16* x;
  __nv_bfloat16* y;
  const __nv_bfloat16* bias;
  __nv_bfloat16* z;
  const uint4* weights_one;
  const uint4* weights_two;
  int64_t x_stride;
  int64_t y_stride;
  int64_t tokens;
  int tiles;
  BttSizes sizes;
  int cluster;
  int token_groups;
  int x_buffers;
  int wait_for_pack;
  SharedLayout layout;
};

// A stage is cut into units, which the warps take in turn: units of (eight
// batches, 16 rows of weights, 8 kNTiles tokens), where a batch is a gamma in
// stage one and a phi in stage two.
struct UnitRange {
  const uint4* weights;  // of this block's slice of batches, this lane's
  int units;
  int row_tiles;
  int depth_steps;
};

template <int kNTiles, int kWarps, bool kCluster>
struct BttForward {
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kUnitTokens = 8 * kNTiles;
  // With 128 registers per thread there is no room for two steps of weights:
  // then each is replaced at its last use, and the other warps hide the wait.
  static constexpr bool kRefill = kWarps == 16;

  const BttForwardParams& p;
  const SharedLayout& s;
  uint32_t x_shared;
  uint32_t z_shared;
  int rank;  // of this block in its cluster
  int lane;
  int warp;
  uint4 next_weights[8];  // always one step of depth ahead
  float sums[8][kNTiles][4];

  __device__ BttForward(const BttForwardParams& params, uint32_t shared)
      : p(params), s(params.layout), x_shared(shared) {
    z_shared = shared + x_buffer_bytes() * p.x_buffers;
    rank = kCluster ? static_cast<int>(ptx::cluster_rank()) : 0;
    lane = static_cast<int>(threadIdx.x) % 32;
    warp = static_cast<int>(threadIdx.x) / 32;
  }

  __device__ int tile_tokens() const { return kUnitTokens * p.token_groups; }
  __device__ uint32_t x_buffer_bytes() const {
    return static_cast<uint32_t>(tile_tokens() * s.x_row) * 16;
  }

  __device__ void sync() const {
    if constexpr (kCluster) {
      ptx::cluster_sync();
    } else {
      __syncthreads();
    }
  }

  __device__ UnitRange range_one() const {
    const int row_tiles = p.sizes.phi * p.sizes.rho / kFragmentRows;
    const int steps = p.sizes.alpha / kFragmentDepth;
    const int64_t first = static_cast<int64_t>(rank) * s.gamma_vectors;
    return {
        p.weights_one + first * row_tiles * steps * kBlockVectors + lane,
        s.gamma_vectors * row_tiles * p.token_groups,
        row_tiles,
        steps};
  }

  __device__ UnitRange range_two() const {
    const int phi_groups = p.sizes.phi / p.cluster / kVector;
    const int row_tiles = p.sizes.epsilon / kFragmentRows;
    const int steps = p.sizes.gamma * p.sizes.rho / kFragmentDepth;
    const int64_t first = static_cast<int64_t>(rank) * phi_groups;
    return {
        p.weights_two + first * row_tiles * steps * kBlockVectors + lane,
        phi_groups * row_tiles * p.token_groups,
        row_tiles,
        steps};
  }

  // The first weights of a unit. Units that differ in their tokens only share
  // weights and are neighbours, so that they share L1.
  __device__ const uint4* unit_weights(const UnitRange& range, int unit) const {
    return range.weights + static_cast<int64_t>(unit / p.token_groups) *
                               range.depth_steps * kBlockVectors;
  }

  // Where this warp starts in `range`, or else in `other`.
  __device__ const uint4* start_of(
      const UnitRange& range, const UnitRange& other) const {
    if (warp < range.units) {
      return unit_weights(range, warp);
    }
    return warp < other.units ? unit_weights(other, warp) : range.weights;
  }

  __device__ void fetch_weights(const uint4* from) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      next_weights[i] = ptx::load_weights(from + 32 * i);
    }
  }

  __device__ __forceinline__ void take_weights(
      uint4 (&w)[8], const uint4* next) {
    if constexpr (!kRefill) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        w[i] = next_weights[i];
      }
      fetch_weights(next);
    }
  }

  __device__ __forceinline__ void refill(int i, const uint4* next) {
    next_weights[i] = ptx::load_weights(next + 32 * i);
  }

  // Starts copying the x of a tile; rows past the last token become zeros.
  __device__ void load_x(int tile, int buffer) const {
    if (tile < p.tiles) {
      const int vectors = s.gamma_vectors;
      const int alpha = p.sizes.alpha;
      const int tokens = tile_tokens();
      const int64_t first_token = static_cast<int64_t>(tile) * tokens;
      const int64_t left = p.tokens - first_token;
      const __nv_bfloat16* x = p.x + first_token * p.x_stride +
                               static_cast<int64_t>(rank) * vectors * kVector;
      const uint32_t shared =
          x_shared + static_cast<uint32_t>(buffer) * x_buffer_bytes();
      const int thread = static_cast<int>(threadIdx.x);
      int v = thread % vectors;
      int a = thread / vectors % alpha;
      int t = thread / vectors / alpha;
      const int step_v = kThreads % vectors;
      const int step_a = kThreads / vectors % alpha;
      const int step_t = kThreads / vectors / alpha;
      while (t < tokens) {
        const bool valid = t < left;
        const __nv_bfloat16* source =
            x + (valid ? t * p.x_stride : 0) + a * p.sizes.gamma + v * kVector;
        ptx::copy_async(
            shared + static_cast<uint32_t>(
                         t * s.x_row + v * s.gamma_vector_stride + a) *
                         16,
            source,
            valid);
        v += step_v;
        const int carry_v = v >= vectors ? 1 : 0;
        v -= carry_v * vectors;
        a += step_a + carry_v;
        const int carry_a = a >= alpha ? 1 : 0;
        a -= carry_a * alpha;
        t += step_t + carry_a;
      }
    }
    ptx::copy_async_commit();
  }

  __device__ void clear_sums() {
#pragma unroll
    for (int b = 0; b < 8; ++b) {
#pragma unroll
      for (int e = 0; e < kNTiles; ++e) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          sums[b][e][i] = 0.0F;
        }
      }
    }
  }

  // Eight batches at (row lane / 4 + 8 half, token 2 (lane % 4) + odd).
  __device__ uint4 rounded(int n_tile, int half, int odd) const {
    const int i = 2 * half + odd;
    return {
        ptx::round_pair(sums[0][n_tile][i], sums[1][n_tile][i]),
        ptx::round_pair(sums[2][n_tile][i], sums[3][n_tile][i]),
        ptx::round_pair(sums[4][n_tile][i], sums[5][n_tile][i]),
        ptx::round_pair(sums[6][n_tile][i], sums[7][n_tile][i])};
  }

  __device__ void stage_one(
      const UnitRange& range, const uint4* after, int buffer) {
    for (int unit = warp; unit < range.units; unit += kWarps) {
      const int group = unit % p.token_groups;
      const int block = unit / p.token_groups;
      const int row_tile = block % range.row_tiles;
      const int vector = block / range.row_tiles;
      const uint4* weights = unit_weights(range, unit);
      const uint4* following = unit + kWarps < range.units
                                   ? unit_weights(range, unit + kWarps)
                                   : after;
      const uint32_t x = x_shared +
                         static_cast<uint32_t>(buffer) * x_buffer_bytes() +
                         static_cast<uint32_t>(
                             (group * kUnitTokens + lane / 4) * s.x_row +
                             vector * s.gamma_vector_stride + lane % 4) *
                             16;
      clear_sums();
#pragma unroll 1
      for (int step = 0; step < range.depth_steps; ++step) {
        const uint4* next = step + 1 < range.depth_steps
                                ? weights + (step + 1) * kBlockVectors
                                : following;
        uint4 w[8];
        take_weights(w, next);
#pragma unroll
        for (int n_tile = 0; n_tile < kNTiles; ++n_tile) {
          const uint32_t from =
              x + static_cast<uint32_t>(
                      n_tile * 8 * s.x_row + step * kFragmentDepth) *
                      16;
          const uint4 v0 = ptx::load_shared(from);
          const uint4 v1 = ptx::load_shared(from + 4 * 16);
          const uint4 v2 = ptx::load_shared(from + 8 * 16);
          const uint4 v3 = ptx::load_shared(from + 12 * 16);
          multiply(0, n_tile, w, next, v0.x, v1.x, v2.x, v3.x);
          multiply(2, n_tile, w, next, v0.y, v1.y, v2.y, v3.y);
          multiply(4, n_tile, w, next, v0.z, v1.z, v2.z, v3.z);
          multiply(6, n_tile, w, next, v0.w, v1.w, v2.w, v3.w);
        }
      }
      store_z(vector, row_tile, group);
    }
  }

  // Two neighbouring gammas of four alphas, in the two halves of four words.
  __device__ __forceinline__ void multiply(
      int gamma,
      int n_tile,
      const uint4 (&w)[8],
      const uint4* next,
      uint32_t a0,
      uint32_t a1,
      uint32_t a2,
      uint32_t a3) {
    ptx::mma(
        sums[gamma][n_tile],
        kRefill ? next_weights[gamma] : w[gamma],
        ptx::low_pair(a0, a1),
        ptx::low_pair(a2, a3));
    ptx::mma(
        sums[gamma + 1][n_tile],
        kRefill ? next_weights[gamma + 1] : w[gamma + 1],
        ptx::high_pair(a0, a1),
        ptx::high_pair(a2, a3));
    if (kRefill && n_tile == kNTiles - 1) {
      refill(gamma, next);
      refill(gamma + 1, next);
    }
  }

  // Gives the unit's z to the block that owns its phi.
  __device__ void store_z(int vector, int row_tile, int group) const {
    const int z_vector = rank * s.gamma_vectors + vector;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      int column = row_tile * kFragmentRows + half * 8 + lane / 4;
      int owner = 0;
      if constexpr (kCluster) {
        owner = column / s.z_columns;
        column -= owner * s.z_columns;
      }
      uint32_t z =
          z_shared +
          static_cast<uint32_t>(
              (group * kUnitTokens + 2 * (lane % 4)) * s.z_row +
              column * s.z_vectors + (z_vector ^ (column & s.z_flip))) *
              16;
      if constexpr (kCluster) {
        z = ptx::peer_address(z, static_cast<uint32_t>(owner));
      }
#pragma unroll
      for (int n_tile = 0; n_tile < kNTiles; ++n_tile) {
#pragma unroll
        for (int odd = 0; odd < 2; ++odd) {
          const uint32_t to =
              z + static_cast<uint32_t>((n_tile * 8 + odd) * s.z_row) * 16;
          if constexpr (kCluster) {
            ptx::store_peer(to, rounded(n_tile, half, odd));
          } else {
            ptx::store_shared(to, rounded(n_tile, half, odd));
          }
        }
      }
    }
  }

  __device__ void stage_two(
      const UnitRange& range, const uint4* after, int tile) {
    const int rho = p.sizes.rho;
    const int steps_of_rho = s.z_vectors / 2;
    // Lanes 0-7 and 8-15 give the two halves of the depth of the first
    // n-tile, lanes 16-31 those of the next.
    const int half = lane / 8 % 2;
    const int token = lane / 16 * 8 + lane % 8;
    for (int unit = warp; unit < range.units; unit += kWarps) {
      const int group = unit % p.token_groups;
      const int block = unit / p.token_groups;
      const int row_tile = block % range.row_tiles;
      const int phi_group = block / range.row_tiles;
      const uint4* weights = unit_weights(range, unit);
      const uint4* following = unit + kWarps < range.units
                                   ? unit_weights(range, unit + kWarps)
                                   : after;
      const uint32_t z =
          z_shared + static_cast<uint32_t>(
                         (group * kUnitTokens + token) * s.z_row +
                         phi_group * kVector * rho * s.z_vectors) *
                         16;
      clear_sums();
      int r = 0;
      int vector = 0;
#pragma unroll 1
      for (int step = 0; step < range.depth_steps; ++step) {
        const uint4* next = step + 1 < range.depth_steps
                                ? weights + (step + 1) * kBlockVectors
                                : following;
        uint4 w[8];
        take_weights(w, next);
#pragma unroll
        for (int phi = 0; phi < 8; ++phi) {
          const int column = phi * rho + r;  // of this unit's, which start even
          const uint32_t from =
              z + static_cast<uint32_t>(
                      column * s.z_vectors +
                      ((vector + half) ^ (column & s.z_flip))) *
                      16;
          multiply_z(phi, kRefill ? next_weights[phi] : w[phi], from);
          if constexpr (kRefill) {
            refill(phi, next);
          }
        }
        vector += 2;
        if (vector == 2 * steps_of_rho) {
          vector = 0;
          ++r;
        }
      }
      store_y(phi_group, row_tile, group, tile);
    }
  }

  __device__ __forceinline__ void multiply_z(
      int phi, const uint4& w, uint32_t from) {
#pragma unroll
    for (int n_tile = 0; n_tile + 1 < kNTiles; n_tile += 2) {
      uint32_t a0;
      uint32_t a1;
      uint32_t b0;
      uint32_t b1;
      ptx::load_matrix(
          from + static_cast<uint32_t>(n_tile * 8 * s.z_row) * 16,
          a0,
          a1,
          b0,
          b1);
      ptx::mma(sums[phi][n_tile], w, a0, a1);
      ptx::mma(sums[phi][n_tile + 1], w, b0, b1);
    }
    if constexpr (kNTiles % 2 == 1) {
      constexpr int kLast = kNTiles - 1;
      uint32_t a0;
      uint32_t a1;
      ptx::load_matrix(
          from + static_cast<uint32_t>(kLast * 8 * s.z_row) * 16, a0, a1);
      ptx::mma(sums[phi][kLast], w, a0, a1);
    }
  }

  __device__ void store_y(int phi_group, int row_tile, int group, int tile) {
    const int phi = p.sizes.phi;
    const int first_phi = rank * (phi / p.cluster) + phi_group * kVector;
    const int64_t first_token = static_cast<int64_t>(tile) * tile_tokens() +
                                group * kUnitTokens + 2 * (lane % 4);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int epsilon = row_tile * kFragmentRows + half * 8 + lane / 4;
      const int64_t feature = static_cast<int64_t>(epsilon) * phi + first_phi;
      if (p.bias != nullptr) {
#pragma unroll
        for (int b = 0; b < 8; ++b) {
          const float bias = __bfloat162float(p.bias[feature + b]);
#pragma unroll
          for (int n_tile = 0; n_tile < kNTiles; ++n_tile) {
            sums[b][n_tile][2 * half] += bias;
            sums[b][n_tile][2 * half + 1] += bias;
          }
        }
      }
#pragma unroll
      for (int n_tile = 0; n_tile < kNTiles; ++n_tile) {
#pragma unroll
        for (int odd = 0; odd < 2; ++odd) {
          const int64_t token = first_token + n_tile * 8 + odd;
          if (token < p.tokens) {
            *reinterpret_cast<uint4*>(p.y + token * p.y_stride + feature) =
                rounded(n_tile, half, odd);
          }
        }
      }
    }
  }

  // Copies this block's phis of z to device memory.
  __device__ void save_z(int tile) const {
    const int per_token = s.z_columns * s.z_vectors;
    const int tokens = tile_tokens();
    const int64_t first_token = static_cast<int64_t>(tile) * tokens;
    const int64_t left = p.tokens - first_token;
    uint4* out = reinterpret_cast<uint4*>(p.z) +
                 (first_token * p.cluster + rank) * per_token;
    for (int t = warp; t < tokens && t < left; t += kWarps) {
      for (int i = lane; i < per_token; i += 32) {
        const int column = i / s.z_vectors;
        const int from = i ^ (column & s.z_flip);
        out[static_cast<int64_t>(t) * p.cluster * per_token + i] =
            ptx::load_shared(
                z_shared + static_cast<uint32_t>(t * s.z_row + from) * 16);
      }
    }
  }

  __device__ void run() {
    const int first = static_cast<int>(blockIdx.x) / p.cluster;
    const int stride = static_cast<int>(gridDim.x) / p.cluster;
    const UnitRange one = range_one();
    const UnitRange two = range_two();
    load_x(first, 0);
    if (p.x_buffers == 2) {
      load_x(first + stride, 1);
    }
    if (p.wait_for_pack != 0) {
      ptx::grid_dependency_sync();
    }
    const uint4* start_one = start_of(one, two);
    const uint4* start_two = start_of(two, one);
    fetch_weights(start_one);
    int buffer = 0;
    for (int tile = first; tile < p.tiles; tile += stride) {
      if (p.x_buffers == 2) {
        ptx::copy_async_wait<1>();
      } else {
        ptx::copy_async_wait<0>();
      }
      sync();  // x is here, and nobody reads the last tile's z any more
      stage_one(one, start_two, buffer);
      sync();  // z is here, and this x is not needed any more
      load_x(tile + p.x_buffers * stride, buffer);
      if (p.z != nullptr) {
        save_z(tile);
      }
      stage_two(two, start_one, tile);
      buffer = p.x_buffers == 2 ? buffer ^ 1 : 0;
    }
    ptx::copy_async_wait<0>();
  }
};

template <int kNTiles, int kWarps, bool kCluster>
__global__ void __launch_bounds__(32 * kWarps, 1)
    btt_linear_fwd(const __grid_constant__ BttForwardParams params) {
  extern __shared__ uint4 shared[];
  BttForward<kNTiles, kWarps, kCluster> kernel(
      params, ptx::shared_address(shared));
  kernel.run();
}

}  // namespace einforge::kernels::cuda
