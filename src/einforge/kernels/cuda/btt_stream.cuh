#pragma once

#include <cuda.h>

#include "einforge/kernels/cuda/btt_stream_layout.h"
#include "einforge/kernels/cuda/ptx_async.h"

// The forward kernel of Hopper: tiles of 16 tokens, one block a
// multiprocessor, weights through shared memory. docs/design/btt_kernels.md
// draws it.
namespace einforge::kernels::cuda {

struct BttStreamParams {
  CUtensorMap x_map;  // (64 features, d_in / 64, tokens)
  CUtensorMap y_map;
  const char* weights_one;
  const char* weights_two;
  const __nv_bfloat16* bias;
  __nv_bfloat16* z;
  int64_t tokens;
  int tiles;
  int cluster;
  int wait_for_pack;
  StreamLayout layout;
};

// Addresses of the barriers: full and empty for the slots of the ring
// (resident: only the first full one is used), then four for each group.
struct StreamBarriers {
  uint32_t base;
  __device__ uint32_t full(int slot) const { return base + 8 * slot; }
  __device__ uint32_t empty(int slot) const {
    return base + 8 * (kRing + slot);
  }
  __device__ uint32_t of_group(int group, int which) const {
    return base + 8 * (2 * kRing + 4 * group + which);
  }
  __device__ uint32_t x_full(int group) const { return of_group(group, 0); }
  __device__ uint32_t x_empty(int group) const { return of_group(group, 1); }
  __device__ uint32_t y_full(int group) const { return of_group(group, 2); }
  __device__ uint32_t y_empty(int group) const { return of_group(group, 3); }
};

template <int kAlpha, int kGamma, int kPhi, bool kResident>
struct BttStream {
  static constexpr int kSteps1 = kAlpha / kFragmentDepth;
  static constexpr int kSteps2 = kGamma / kFragmentDepth;
  static constexpr int kGroups = kResident ? 3 : 1;
  static constexpr int kGroupWarps = kResident ? 4 : 8;
  static constexpr int kConsumers = kGroups * kGroupWarps;
  static constexpr int kThreads = 32 * (kConsumers + 4);
  // A warpgroup of four producers gives its registers to the consumers.
  static constexpr int kConsumerRegisters = kResident ? 152 : 232;
  static constexpr int kProducerRegisters = 40;
  static constexpr int kGammaVectors = kGamma / kVector;
  static constexpr int kPhiVectors = kPhi / kVector;

  const BttStreamParams& p;
  const StreamLayout& s;
  uint32_t shared;
  StreamBarriers barriers;
  int rank;       // of this block in its cluster
  int first;      // tile of this block
  int tile_step;  // between its tiles
  int rounds;     // how many
  int lane;
  int warp;  // of the block

  __device__ BttStream(const BttStreamParams& params, uint32_t raw)
      : p(params), s(params.layout) {
    shared = (raw + 1023) / 1024 * 1024;
    barriers = {shared + static_cast<uint32_t>(s.barriers)};
    lane = static_cast<int>(threadIdx.x) % 32;
    warp = static_cast<int>(threadIdx.x) / 32;
    rank = p.cluster > 1 ? static_cast<int>(ptx::cluster_rank()) : 0;
    // Blocks of a cluster take neighbouring tiles, and all the same number of
    // them (perhaps past the end), because they share the weights' ring.
    const int cluster = static_cast<int>(blockIdx.x) / p.cluster;
    const int clusters = static_cast<int>(gridDim.x) / p.cluster;
    const int supers = (p.tiles + p.cluster - 1) / p.cluster;
    first = cluster * p.cluster + rank;
    tile_step = clusters * p.cluster;
    rounds = (supers - cluster + clusters - 1) / clusters;
  }

  __device__ int tile_of(int round) const { return first + round * tile_step; }

  __device__ void init_barriers() const {
    if (threadIdx.x == 0) {
      for (int i = 0; i < kRing; ++i) {
        ptx::barrier_init(barriers.full(i), 1);
        ptx::barrier_init(barriers.empty(i), kConsumers * p.cluster);
      }
      for (int g = 0; g < kGroups; ++g) {
        ptx::barrier_init(barriers.x_full(g), 1);
        ptx::barrier_init(barriers.x_empty(g), kResident ? 1 : kGroupWarps);
        ptx::barrier_init(barriers.y_full(g), kGroupWarps);
        ptx::barrier_init(barriers.y_empty(g), 1);
      }
      ptx::barrier_init_fence();
    }
    if (p.cluster > 1) {
      ptx::cluster_sync();
    } else {
      __syncthreads();
    }
  }

  // --- producers ---------------------------------------------------------

  // Lane i brings the chunk pieces of consumer warp i: the blocks of a cluster
  // share the eight pieces, and each sends its own to all of them.
  __device__ void produce_chunk(
      const char* from, int& slot, uint32_t& phase) const {
    const int pieces = 8 / p.cluster;
    ptx::barrier_wait(barriers.empty(slot), phase ^ 1);
    const uint32_t full = barriers.full(slot);
    if (lane == 0) {
      ptx::barrier_expect(full, kChunkBytes);
    }
    if (lane < pieces) {
      const uint32_t to =
          shared + static_cast<uint32_t>(
                       s.weights + slot * kChunkBytes +
                       (rank * pieces + lane) * kWarpChunkBytes);
      if (p.cluster > 1) {
        const auto all = static_cast<uint16_t>((1 << p.cluster) - 1);
        ptx::bulk_load_multicast(to, from, kWarpChunkBytes, full, all);
      } else {
        ptx::bulk_load(to, from, kWarpChunkBytes, full);
      }
    }
    __syncwarp();
    slot = (slot + 1) % kRing;
    phase ^= slot == 0 ? 1 : 0;
  }

  __device__ void produce_stage(
      const StreamStage& stage,
      const char* weights,
      int& slot,
      uint32_t& phase) const {
    const int consumer = rank * (8 / p.cluster) + lane;
    const int octet = consumer % stage.vectors;
    const int split = consumer / stage.vectors;
    for (int j = 0; j < stage.rounds(); ++j) {
      const char* from =
          weights + stage.block(octet, j * stage.splits + split, 0) * 16;
      for (int quad = 0; quad < 2; ++quad) {
        for (int step = 0; step < stage.steps; ++step) {
          produce_chunk(
              from + step * kBlockVectors * 16 + quad * kWarpChunkBytes,
              slot,
              phase);
        }
      }
    }
  }

  __device__ void produce_weights() const {
    if (p.wait_for_pack != 0) {
      ptx::wait_for_previous_kernel();
    }
    if constexpr (kResident) {
      if (lane == 0) {
        const int bytes = s.barriers - s.weights;
        ptx::barrier_expect(barriers.full(0), bytes);
        constexpr int kPiece = 16384;
        for (int at = 0; at < bytes; at += kPiece) {
          const int piece = bytes - at < kPiece ? bytes - at : kPiece;
          ptx::bulk_load(
              shared + static_cast<uint32_t>(s.weights + at),
              p.weights_one + at,
              piece,
              barriers.full(0));
        }
      }
      __syncwarp();
    } else {
      int slot = 0;
      uint32_t phase = 0;
      for (int round = 0; round < rounds; ++round) {
        produce_stage(s.one, p.weights_one, slot, phase);
        produce_stage(s.two, p.weights_two, slot, phase);
      }
      // The consumers always fetch one chunk ahead.
      produce_chunk(p.weights_one, slot, phase);
    }
  }

  __device__ void produce_x() const {
    if (lane == 0) {
      int group = 0;
      uint32_t phase = 0;
      for (int round = 0; round < rounds; ++round) {
        ptx::barrier_wait(barriers.x_empty(group), phase ^ 1);
        ptx::barrier_expect(barriers.x_full(group), kStreamTokens * s.x_token);
        ptx::tensor_load(
            shared + static_cast<uint32_t>(s.x + group * s.group_bytes),
            &p.x_map,
            0,
            0,
            tile_of(round) * kStreamTokens,
            barriers.x_full(group));
        if (!kResident && s.in_place && round + 1 < rounds) {
          // The next x has nowhere to go before stage two: bring it nearer.
          ptx::barrier_wait(barriers.x_full(group), phase);
          ptx::tensor_prefetch(&p.x_map, 0, tile_of(round + 1) * kStreamTokens);
        }
        if (++group == kGroups) {
          group = 0;
          phase ^= 1;
        }
      }
    }
    __syncwarp();
  }

  __device__ void send_y() const {
    if (lane == 0) {
      int group = 0;
      uint32_t phase = 0;
      const int rows = s.y_token / kRowBytes;
      const int boxes = kResident ? 1 : s.two.rounds();
      for (int round = 0; round < rounds; ++round) {
        for (int box = 0; box < boxes; ++box) {
          ptx::barrier_wait(barriers.y_full(group), phase);
          ptx::tensor_store(
              &p.y_map,
              0,
              box * rows,
              tile_of(round) * kStreamTokens,
              shared + static_cast<uint32_t>(s.y + group * s.group_bytes));
          ptx::store_commit();
          ptx::store_wait_read();
          ptx::barrier_arrive(
              kResident ? barriers.x_empty(group) : barriers.y_empty(group));
          if (!kResident) {
            phase ^= 1;
          }
        }
        if (kResident && ++group == kGroups) {
          group = 0;
          phase ^= 1;
        }
      }
    }
    __syncwarp();
  }

  // --- consumers ---------------------------------------------------------

  // The weights that this warp takes, one chunk ahead.
  struct Weights {
    uint4 chunks[2][kChunkBatches];
    uint32_t from;   // this lane's of slot 0
    uint32_t empty;  // of slot 0, in the block that this lane tells
    bool tells;
    uint32_t phase = 0;
  };

  // Chunk number `at` of its phase of the ring, a constant after unrolling.
  __device__ __forceinline__ void fetch(Weights& w, int at) const {
    const int slot = at % kRing;
    ptx::barrier_wait(barriers.full(slot), w.phase);
#pragma unroll
    for (int b = 0; b < kChunkBatches; ++b) {
      w.chunks[at % 2][b] = ptx::load_shared(
          w.from + static_cast<uint32_t>(slot * kChunkBytes + b * 512));
    }
    __syncwarp();
    if (w.tells) {
      ptx::barrier_arrive_peer(w.empty + static_cast<uint32_t>(8 * slot));
    }
    if (slot == kRing - 1) {
      w.phase ^= 1;
    }
  }

  // Eight batches of 16 tokens, whole: the fragments of the m operand.
  template <int kSteps>
  struct Operand {
    uint32_t word[8][kSteps][4];
  };

  __device__ __forceinline__ void load_x(
      uint32_t x, int octet, Operand<kSteps1>& a) const {
    // Rows of odd tokens read their four alphas in another order, into other
    // banks; the order of the PRMT sets it right.
    const int row = lane / 4;
    const int odd = row & 1;
    const uint32_t low = odd != 0 ? 0x1054U : 0x5410U;
    const uint32_t high = odd != 0 ? 0x3276U : 0x7632U;
    uint32_t from[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int alpha = 4 * (i ^ odd) + lane % 4;
      from[i] =
          x + static_cast<uint32_t>(
                  row * s.x_token + swizzled(alpha * kGammaVectors + octet));
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const auto tokens = static_cast<uint32_t>(8 * half * s.x_token);
#pragma unroll
      for (int step = 0; step < kSteps1; ++step) {
        uint4 v[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          v[i] = ptx::load_shared(
              tokens +
              swizzled_from(
                  from[i % 2], (16 * step + i / 2 * 8) * kGammaVectors));
        }
#pragma unroll
        for (int k = 0; k < 2; ++k) {
          const uint4& u = v[2 * k];
          const uint4& w = v[2 * k + 1];
          const int i = half + 2 * k;
          a.word[0][step][i] = __byte_perm(u.x, w.x, low);
          a.word[1][step][i] = __byte_perm(u.x, w.x, high);
          a.word[2][step][i] = __byte_perm(u.y, w.y, low);
          a.word[3][step][i] = __byte_perm(u.y, w.y, high);
          a.word[4][step][i] = __byte_perm(u.z, w.z, low);
          a.word[5][step][i] = __byte_perm(u.z, w.z, high);
          a.word[6][step][i] = __byte_perm(u.w, w.w, low);
          a.word[7][step][i] = __byte_perm(u.w, w.w, high);
        }
      }
    }
  }

  __device__ __forceinline__ void load_z(
      uint32_t z, int octet, Operand<kSteps2>& a) const {
    const int t = lane % 16;
    const uint32_t from =
        z +
        static_cast<uint32_t>(
            t * s.z_token + z_position(t, octet * 8, lane / 16, kGammaVectors));
#pragma unroll
    for (int f = 0; f < 8; ++f) {
#pragma unroll
      for (int step = 0; step < kSteps2; ++step) {
        ptx::load_matrix(
            swizzled_within(from, f * kGammaVectors + 2 * step),
            a.word[f][step][0],
            a.word[f][step][1],
            a.word[f][step][2],
            a.word[f][step][3]);
      }
    }
  }

  // One stage for one warp: for each of its row tiles the eight batches, in
  // two halves, and `store(row tile, values)` with values[n][half][odd] the
  // eight batches of (token lane / 4 + 8 half, row 8 n + 2 (lane % 4) + odd).
  template <int kSteps, typename Start, typename Store>
  __device__ __forceinline__ void multiply(
      const StreamStage& stage,
      uint32_t resident,
      int octet,
      int split,
      const Operand<kSteps>& a,
      Weights& weights,
      const Start& start,
      const Store& store) const {
#pragma unroll 1
    for (int j = 0; j < stage.rounds(); ++j) {
      const int row_tile = j * stage.splits + split;
      uint32_t values[2][2][2][4];
#pragma unroll
      for (int quad = 0; quad < 2; ++quad) {
        float sums[kChunkBatches][2][4];
        start(row_tile, quad, sums);
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
          uint4 w[kChunkBatches];
          const int at = quad * kSteps + step;
          if constexpr (kResident) {
            const uint32_t from =
                resident + static_cast<uint32_t>(
                               stage.block(octet, row_tile, step) * 16 +
                               quad * kWarpChunkBytes + lane * 16);
#pragma unroll
            for (int b = 0; b < kChunkBatches; ++b) {
              w[b] = ptx::load_shared(from + static_cast<uint32_t>(b) * 512);
            }
          } else {
#pragma unroll
            for (int b = 0; b < kChunkBatches; ++b) {
              w[b] = weights.chunks[at % 2][b];
            }
            fetch(weights, at + 1);
          }
#pragma unroll
          for (int b = 0; b < kChunkBatches; ++b) {
            const uint32_t(&m)[4] = a.word[kChunkBatches * quad + b][step];
            const uint4 operand{m[0], m[1], m[2], m[3]};
            ptx::mma(sums[b][0], operand, w[b].x, w[b].y);
            ptx::mma(sums[b][1], operand, w[b].z, w[b].w);
          }
        }
#pragma unroll
        for (int n = 0; n < 2; ++n) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            values[n][i / 2][i % 2][2 * quad] =
                ptx::round_pair(sums[0][n][i], sums[1][n][i]);
            values[n][i / 2][i % 2][2 * quad + 1] =
                ptx::round_pair(sums[2][n][i], sums[3][n][i]);
          }
        }
      }
      store(j, row_tile, values);
    }
  }

  __device__ void group_sync(int group) const {
    ptx::named_barrier(1 + group, 32 * kGroupWarps);
  }

  // Copies a tile of z to device memory.
  __device__ void save_z(uint32_t z, int tile, int thread) const {
    constexpr int kVectors = kPhi * kGammaVectors;  // of a token
    uint4* out = reinterpret_cast<uint4*>(p.z) +
                 static_cast<int64_t>(tile) * kStreamTokens * kVectors;
    const int64_t left = p.tokens - static_cast<int64_t>(tile) * kStreamTokens;
    for (int i = thread; i < kStreamTokens * kVectors; i += 32 * kGroupWarps) {
      const int t = i / kVectors;
      const int j = i % kVectors;
      if (t < left) {
        out[i] = ptx::load_shared(
            z +
            static_cast<uint32_t>(
                t * s.z_token +
                z_position(
                    t, j / kGammaVectors, j % kGammaVectors, kGammaVectors)));
      }
    }
  }

  __device__ void consume() const {
    const int group = warp / kGroupWarps;
    const int worker = warp % kGroupWarps;
    const int octet1 = worker % kGammaVectors;
    const int split1 = worker / kGammaVectors;
    const int octet2 = worker % kPhiVectors;
    const int split2 = worker / kPhiVectors;
    const auto base = shared + static_cast<uint32_t>(group * s.group_bytes);
    const uint32_t x = base + static_cast<uint32_t>(s.x);
    const uint32_t z = base + static_cast<uint32_t>(s.z);
    const uint32_t y = base + static_cast<uint32_t>(s.y);
    const uint32_t resident_one = shared + static_cast<uint32_t>(s.weights);
    const uint32_t resident_two =
        resident_one +
        static_cast<uint32_t>(s.one.block(s.one.vectors, 0, 0) * 16);
    const int row = lane / 4;
    const int column = 2 * (lane % 4);
    Weights weights;
    if constexpr (kResident) {
      ptx::barrier_wait(barriers.full(0), 0);
    } else {
      weights.from =
          shared +
          static_cast<uint32_t>(s.weights + warp * kWarpChunkBytes + lane * 16);
      weights.tells = lane < p.cluster;
      weights.empty = ptx::peer_address(
          barriers.empty(0),
          static_cast<uint32_t>(weights.tells ? lane : rank));
      fetch(weights, 0);
    }
    uint32_t phase = 0;
    uint32_t y_phase = 1;  // the staging of y starts empty

    uint32_t to_z[2];
    uint32_t to_y[2];
    // Odd tokens store their odd row of y first: other banks.
    const bool swap = (row & 1) != 0;
#pragma unroll
    for (int odd = 0; odd < 2; ++odd) {
      to_z[odd] = z + static_cast<uint32_t>(
                          row * s.z_token +
                          z_position(row, column + odd, octet1, kGammaVectors));
      to_y[odd] =
          y +
          static_cast<uint32_t>(
              row * s.y_token +
              swizzled(
                  (column + (swap ? 1 - odd : odd)) * kPhiVectors + octet2));
    }
    const auto store_z = [&](int, int row_tile, uint32_t(&v)[2][2][2][4]) {
#pragma unroll
      for (int n = 0; n < 2; ++n) {
#pragma unroll
        for (int odd = 0; odd < 2; ++odd) {
          const uint32_t to = swizzled_from(
              to_z[odd], (row_tile * kFragmentRows + 8 * n) * kGammaVectors);
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const uint32_t(&u)[4] = v[n][half][odd];
            ptx::store_shared(
                to + static_cast<uint32_t>(8 * half * s.z_token),
                {u[0], u[1], u[2], u[3]});
          }
        }
      }
    };
    const auto store_y = [&](int j, int row_tile, uint32_t(&v)[2][2][2][4]) {
      if constexpr (!kResident) {
        ptx::barrier_wait(barriers.y_empty(group), y_phase);
        y_phase ^= 1;
      }
      const int first_epsilon = (kResident ? row_tile : split2) * kFragmentRows;
#pragma unroll
      for (int n = 0; n < 2; ++n) {
#pragma unroll
        for (int k = 0; k < 2; ++k) {
          const uint32_t to =
              swizzled_from(to_y[k], (first_epsilon + 8 * n) * kPhiVectors);
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const uint32_t(&even)[4] = v[n][half][k];
            const uint32_t(&odd)[4] = v[n][half][1 - k];
            ptx::store_shared(
                to + static_cast<uint32_t>(8 * half * s.y_token),
                {swap ? odd[0] : even[0],
                 swap ? odd[1] : even[1],
                 swap ? odd[2] : even[2],
                 swap ? odd[3] : even[3]});
          }
        }
      }
      if (!kResident || j + 1 == s.two.rounds()) {
        ptx::async_fence();
        __syncwarp();
        if (lane == 0) {
          ptx::barrier_arrive(barriers.y_full(group));
        }
      }
    };
    const auto zero = [](int, int, float(&sums)[kChunkBatches][2][4]) {
#pragma unroll
      for (int b = 0; b < kChunkBatches; ++b) {
#pragma unroll
        for (int n = 0; n < 2; ++n) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            sums[b][n][i] = 0.0F;
          }
        }
      }
    };
    const auto start_y = [&](int row_tile,
                             int quad,
                             float(&sums)[kChunkBatches][2][4]) {
      if (p.bias == nullptr) {
        zero(row_tile, quad, sums);
        return;
      }
#pragma unroll
      for (int n = 0; n < 2; ++n) {
#pragma unroll
        for (int odd = 0; odd < 2; ++odd) {
          const int epsilon = row_tile * kFragmentRows + 8 * n + column + odd;
          const __nv_bfloat16* bias =
              p.bias + epsilon * kPhi + octet2 * 8 + kChunkBatches * quad;
#pragma unroll
          for (int b = 0; b < kChunkBatches; ++b) {
            const float value = __bfloat162float(bias[b]);
            sums[b][n][odd] = value;
            sums[b][n][2 + odd] = value;
          }
        }
      }
    };

    for (int round = group; round < rounds; round += kGroups) {
      ptx::barrier_wait(barriers.x_full(group), phase);
      phase ^= 1;
      {
        Operand<kSteps1> a;
        load_x(x, octet1, a);
        if (!s.in_place) {
          release_x(group);
        } else if (s.one.splits > 1) {
          group_sync(group);  // before z overwrites what others still read
        }
        multiply(
            s.one, resident_one, octet1, split1, a, weights, zero, store_z);
      }
      group_sync(group);
      if (p.z != nullptr) {
        save_z(z, tile_of(round), worker * 32 + lane);
      }
      {
        Operand<kSteps2> a;
        load_z(z, octet2, a);
        if (kResident || !s.in_place) {
          group_sync(group);  // before y or the next z takes z's place
        }
        if (!kResident && s.in_place) {
          release_x(group);
        }
        multiply(
            s.two, resident_two, octet2, split2, a, weights, start_y, store_y);
      }
    }
  }

  __device__ __forceinline__ void release_x(int group) const {
    ptx::async_fence();
    __syncwarp();
    if (lane == 0) {
      ptx::barrier_arrive(barriers.x_empty(group));
    }
  }

  __device__ void run() const {
    init_barriers();
    if (warp < kConsumers) {
      ptx::grow_registers<kConsumerRegisters>();
      consume();
    } else {
      ptx::shrink_registers<kProducerRegisters>();
      if (warp == kConsumers) {
        produce_weights();
      } else if (warp == kConsumers + 1) {
        produce_x();
      } else if (warp == kConsumers + 2) {
        send_y();
      }
    }
    if (p.cluster > 1) {
      ptx::cluster_sync();  // nobody leaves while others may still send to it
    }
  }
};

template <int kAlpha, int kGamma, int kPhi, bool kResident>
__global__ void __launch_bounds__(
    BttStream<kAlpha, kGamma, kPhi, kResident>::kThreads, 1)
    btt_stream_fwd(const __grid_constant__ BttStreamParams params) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ uint4 shared[];
  BttStream<kAlpha, kGamma, kPhi, kResident> kernel(
      params, ptx::shared_address(shared));
  kernel.run();
#endif
}

}  // namespace einforge::kernels::cuda
