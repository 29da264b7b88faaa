#pragma once

#include <cuda.h>

#include "einforge/kernels/cuda/btt_linear.h"
#include "einforge/kernels/cuda/btt_resident_layout.h"
#include "einforge/kernels/cuda/ptx_async.cuh"
#include "einforge/kernels/cuda/ptx_warpgroup.cuh"
#include "einforge/kernels/cuda/routed_tiles.cuh"

// The weight-stationary forward kernel: a cluster holds both cores in its
// registers, and tokens stream past. docs/design/btt_kernels.md draws it.
namespace einforge::kernels::cuda {

// Lanes of a warp that arrive at another warp's barrier once the warp has read.
// Racecheck only follows threads that arrive for themselves; it has a build
// where all do.
#ifdef EINFORGE_RACECHECK
inline constexpr int kArrivingLanes = 32;
#else
inline constexpr int kArrivingLanes = 1;
#endif

struct BttResidentParams {
  CUtensorMap x_map;  // (columns, rows, tokens)
  CUtensorMap y_map;
  const uint4* weights_one;
  const uint4* weights_two;
  const __nv_bfloat16* bias;
  __nv_bfloat16* z;
  int gamma;  // of the layer
  int phi;
  int64_t tokens;
  int tiles;
  int wait_for_pack;
  // Of a mixture: the layer takes a row of x for each pair and writes one of y,
  // and each expert has so many vectors of weights.
  RoutedRows rows;
  int64_t expert_vectors;
  // With gates, by place in the order of the rows, a token's pairs have one row
  // of y together, to which `add` adds.
  const float* gates;
  int add;
};

// With kRouted, a mixture of experts of this shape.
template <typename S, bool kRouted>
struct BttResident {
  static constexpr int kConsumers = 2 * kResidentStageWarps;
  static constexpr int kThreads = 32 * (kConsumers + 4);
  // A warpgroup of four warps that only copy gives its registers to the rest.
  static constexpr bool kBusyProducers = S::kSplitK || kRouted;
  static constexpr int kConsumerRegisters = kBusyProducers ? 232 : 240;
  static constexpr int kProducerRegisters = kBusyProducers ? 40 : 24;
  static constexpr int kReducers = 2;  // reducer warps
  // Blocks whose stage one writes a block's z, or whose stage two reads it.
  // Without an exchange it is this one alone, and every thread says itself what
  // it wrote and read: nothing is gained by one speaking for its warp, and
  // racecheck only believes the former.
  static constexpr int kZSources = S::kExchange ? S::kGroup : 1;

  template <int kSize>
  using Ring = ptx::Ring<kSize>;

  const BttResidentParams& p;
  uint32_t shared;
  int rank;  // of this block in its cluster
  int part;  // rank = part * kGroup + member
  int member;
  int first;   // tile
  int stride;  // between tiles
  int lane;
  int warp;  // of the block

  __device__ BttResident(const BttResidentParams& params, uint32_t raw)
      : p(params) {
    shared = (raw + 1023) / 1024 * 1024;
    lane = static_cast<int>(threadIdx.x) % 32;
    warp = ptx::warp_uniform(static_cast<int>(threadIdx.x) / 32);
    rank = S::kCluster > 1
               ? ptx::warp_uniform(static_cast<int>(ptx::cluster_rank()))
               : 0;
    part = rank / S::kGroup;
    member = rank % S::kGroup;
    first = static_cast<int>(blockIdx.x) / S::kCluster;
    stride = static_cast<int>(gridDim.x) / S::kCluster;
  }

  // --- barriers ------------------------------------------------------------

  __device__ uint32_t barrier(int i) const {
    return shared + static_cast<uint32_t>(S::kBarriers + 8 * i);
  }
  __device__ uint32_t x_full(int b) const { return barrier(b); }
  __device__ uint32_t x_empty(int b) const { return barrier(6 + b); }
  __device__ uint32_t z_full(int b) const { return barrier(12 + b); }
  __device__ uint32_t z_empty(int b) const { return barrier(16 + b); }
  __device__ uint32_t y_full(int b) const { return barrier(20 + b); }
  __device__ uint32_t y_empty(int b) const { return barrier(22 + b); }
  __device__ uint32_t sum_full(int b) const { return barrier(24 + b); }
  __device__ uint32_t sum_empty(int b) const { return barrier(28 + b); }

  __device__ void init_barriers() const {
    if (threadIdx.x == 0) {
      for (int b = 0; b < S::kXBuffers; ++b) {
        ptx::barrier_init(x_full(b), 1);
        ptx::barrier_init(
            x_empty(b), kArrivingLanes * kResidentStageWarps * S::kParts);
      }
      for (int b = 0; b < S::kZBuffers; ++b) {
        ptx::barrier_init(
            z_full(b), 32 * kResidentStageWarps + (S::kExchange ? 1 : 0));
        ptx::barrier_init(
            z_empty(b),
            kResidentStageWarps *
                (S::kExchange ? kArrivingLanes * kZSources : 32));
      }
      for (int b = 0; b < S::kYBuffers; ++b) {
        ptx::barrier_init(
            y_full(b), S::kSplitK ? kReducers : kResidentStageWarps);
        ptx::barrier_init(y_empty(b), 1);
      }
      for (int b = 0; b < S::kSumBuffers; ++b) {
        ptx::barrier_init(sum_full(b), 32 * kResidentStageWarps + 1);
        ptx::barrier_init(sum_empty(b), kArrivingLanes * kReducers * S::kGroup);
      }
      ptx::barrier_init_fence();
      if constexpr (S::kExchange) {
        for (int b = 0; b < S::kZBuffers; ++b) {
          ptx::barrier_expect(z_full(b), S::kZFromOthers);
        }
      }
      if constexpr (S::kSplitK) {
        for (int b = 0; b < S::kSumBuffers; ++b) {
          ptx::barrier_expect(sum_full(b), S::kSumFromOthers);
        }
      }
    }
    if constexpr (S::kCluster > 1) {
      ptx::cluster_sync();
    } else {
      __syncthreads();
    }
  }

  // --- work ----------------------------------------------------------------

  // Calls work(chunk, first tile, end, stride) for what this cluster does. With
  // several chunks that is a contiguous partition of all (chunk, tile), which
  // seldom loads other weights; so it is with experts, which take a chunk's
  // place.
  template <typename Work>
  __device__ __forceinline__ void for_spans(const Work& work) const {
    if constexpr (kRouted) {
      static_assert(S::kChunks == 1);
      RoutedTiles<kResidentTokens>{p.rows}.for_spans(
          first, stride, [&](int expert, int begin, int end) {
            work(expert, begin, end, 1);
          });
    } else if constexpr (S::kChunks == 1) {
      work(0, first, p.tiles, stride);
    } else {
      const int64_t items = static_cast<int64_t>(p.tiles) * S::kChunks;
      int item = static_cast<int>(items * first / stride);
      const int end = static_cast<int>(items * (first + 1) / stride);
#pragma unroll 1
      while (item < end) {
        const int tile = item % p.tiles;
        const int count = min(end - item, p.tiles - tile);
        work(item / p.tiles, tile, tile + count, 1);
        item += count;
      }
    }
  }

  // --- copies --------------------------------------------------------------

  // Each part brings its share of the tile's tokens to all parts. By one warp:
  // a box of several tokens is one lane's, single rows are one a lane.
  __device__ void produce_x() const {
    constexpr int kShare = kResidentTokens / S::kParts;
    constexpr int kLanes = kRouted ? kShare : 1;
    Ring<S::kXBuffers> x(1);
    uint32_t mask = 0;
    for (int i = 0; i < S::kParts; ++i) {
      mask |= 1U << (i * S::kGroup + member);
    }
    const int column = member * S::kGammas;  // of one member: 0
    for_spans([&](int chunk, int begin, int end, int hop) {
      for (int tile = begin; tile < end; tile += hop) {
        int token = tile * kResidentTokens + part * kShare;
        if constexpr (kRouted) {
          token = RoutedTiles<kResidentTokens>{p.rows}.pair(
                      chunk, tile, part * kShare + lane % kShare) /
                  p.rows.active;
        }
        if (lane == 0) {
          ptx::barrier_wait(x_empty(x.slot), x.phase);
          ptx::barrier_expect(x_full(x.slot), S::kXBytes);
        }
        __syncwarp();
        const uint32_t to =
            shared + static_cast<uint32_t>(
                         S::kX + x.slot * S::kXBytes +
                         (part * kShare + lane % kLanes) * S::kXToken);
        if (lane < kLanes) {
          if constexpr (S::kParts > 1) {
            ptx::tensor_load_multicast(
                to,
                &p.x_map,
                column,
                0,
                token,
                x_full(x.slot),
                static_cast<uint16_t>(mask));
          } else {
            ptx::tensor_load(to, &p.x_map, column, 0, token, x_full(x.slot));
          }
        }
        x.next();
      }
    });
  }

  // Which chunk of phi a span is about, and where its weights are.
  __device__ static int chunk_of(int span) { return kRouted ? 0 : span; }
  __device__ int64_t weights_of(int span) const {
    return kRouted ? span * p.expert_vectors : 0;
  }

  __device__ int first_phi(int chunk) const {  // of stage two
    return S::first_phi(chunk, part, member);
  }
  __device__ int first_epsilon() const { return S::first_epsilon(member); }

  // By one warp, as produce_x.
  __device__ void send_y() const {
    constexpr int kLanes = kRouted ? kResidentTokens : 1;
    Ring<S::kYBuffers> y(0);
    const int row = first_epsilon();
    for_spans([&](int chunk, int begin, int end, int hop) {
      const int column = first_phi(chunk_of(chunk));
      for (int tile = begin; tile < end; tile += hop) {
        int token = tile * kResidentTokens;
        if constexpr (kRouted) {
          token = RoutedTiles<kResidentTokens>{p.rows}.pair(
              chunk, tile, lane % kLanes);
          if (p.gates != nullptr) {
            token /= p.rows.active;
          }
        }
        if (lane == 0) {
          ptx::barrier_wait(y_full(y.slot), y.phase);
        }
        __syncwarp();
        if (lane < kLanes) {
          const uint32_t from =
              shared + static_cast<uint32_t>(
                           S::kY + y.slot * S::kYBytes + lane * S::kYToken);
          if (kRouted && p.add != 0) {
            ptx::tensor_add(&p.y_map, column, row, token, from);
          } else {
            ptx::tensor_store(&p.y_map, column, row, token, from);
          }
          ptx::store_commit();
          ptx::store_wait_read();
        }
        __syncwarp();
        if (lane == 0) {
          ptx::barrier_arrive(y_empty(y.slot));
        }
        y.next();
      }
    });
  }

  // The sum over the members of the 16-byte vector that each has at `from`.
  __device__ static uint4 reduced(uint32_t from) {
    uint4 v[S::kGroup];
#pragma unroll
    for (int sender = 0; sender < S::kGroup; ++sender) {
      v[sender] =
          ptx::load_shared(from + static_cast<uint32_t>(sender * S::kYBytes));
    }
    float total[8] = {};
#pragma unroll
    for (int sender = 0; sender < S::kGroup; ++sender) {
      ptx::add_pair(total[0], total[1], v[sender].x);
      ptx::add_pair(total[2], total[3], v[sender].y);
      ptx::add_pair(total[4], total[5], v[sender].z);
      ptx::add_pair(total[6], total[7], v[sender].w);
    }
    return {
        ptx::round_pair(total[0], total[1]),
        ptx::round_pair(total[2], total[3]),
        ptx::round_pair(total[4], total[5]),
        ptx::round_pair(total[6], total[7])};
  }

  // Split-K cluster reduction: the sums of all members for this one's epsilons,
  // in the order of the members. A reducer warp has every other token.
  __device__ void reduce_split_k(int reducer) const {
    static_assert(kReducers == 2 && S::kPhis == 8);
    // Eight lanes have the eight epsilons of a token.
    const int epsilon = lane % 8;
    const int q = lane / 8;
    const uint32_t from =
        shared + static_cast<uint32_t>(
                     S::kSum + sum_offset(0, 0, reducer, epsilon * 4 + q));
    const uint32_t to =
        shared +
        static_cast<uint32_t>(
            S::kY + swizzled(
                        (2 * q + reducer) * S::kYToken + epsilon * S::kPhis * 2,
                        S::kYMask));
    Ring<S::kSumBuffers> sum(0);
    Ring<S::kYBuffers> y(1);
    for_spans([&](int, int begin, int end, int hop) {
#pragma unroll 1
      for (int tile = begin; tile < end; tile += hop) {
        ptx::barrier_wait(sum_full(sum.slot), sum.phase);
        if (reducer == 0 && lane == 0) {  // before anybody learns it is free
          ptx::barrier_expect(sum_full(sum.slot), S::kSumFromOthers);
        }
        ptx::barrier_wait(y_empty(y.slot), y.phase);
        const auto sums = static_cast<uint32_t>(sum.slot * S::kSumBytes);
        const auto place = static_cast<uint32_t>(y.slot * S::kYBytes);
#pragma unroll
        for (int n_tile = 0; n_tile < kResidentNTiles; ++n_tile) {
#pragma unroll
          for (int i = 0; i < 2 * S::kSumTiles; ++i) {  // eight epsilons
            ptx::store_shared(
                place + static_cast<uint32_t>(n_tile * 8 * S::kYToken) +
                    swizzled_from(to, 8 * i * S::kPhis * 2, S::kYMask),
                reduced(
                    from + sums +
                    static_cast<uint32_t>(
                        sum_offset(i / 2, n_tile, i % 2 * 2, 0))));
          }
        }
        arrive(sum_empty(sum.slot), part * S::kGroup, 1, S::kGroup);
        ptx::async_fence();
        __syncwarp();
        if (lane == 0) {
          ptx::barrier_arrive(y_full(y.slot));
        }
        sum.next();
        y.next();
      }
    });
  }

  // --- stages --------------------------------------------------------------

  template <ResidentStage kStage>
  struct Weights {
    uint4 of[kStage.tiles()][kStage.steps][kStage.batches];

    // The layer has `row_tiles` row tiles; ours start at `row_tile`.
    __device__ __forceinline__ void load(
        const uint4* from,
        int batch,
        int row_tile,
        int row_tiles,
        const ResidentDepth& depth,
        int lane) {
      from += (batch / 8 * row_tiles + row_tile) * depth.all * kBlockVectors +
              batch % 8 * 32 + lane;
#pragma unroll
      for (int k = 0; k < kStage.tiles(); ++k) {
#pragma unroll
        for (int step = 0; step < kStage.steps; ++step) {
#pragma unroll
          for (int b = 0; b < kStage.batches; ++b) {
            of[k][step][b] = ptx::load_weights(
                from + (k * depth.all + depth.step(step)) * kBlockVectors +
                b * 32);
          }
        }
      }
    }
  };

  // Arrives at a barrier of `count` blocks, `step` apart from rank `from`.
  __device__ __forceinline__ void arrive(
      uint32_t barrier, int from, int step, int count) const {
    const auto arrive = [&](int i) {
      if (count > 1) {
        ptx::barrier_arrive_peer(
            ptx::peer_address(barrier, static_cast<uint32_t>(from + i * step)));
      } else {
        ptx::barrier_arrive(barrier);
      }
    };
    __syncwarp();
    if constexpr (kArrivingLanes == 1) {
      if (lane < count) {
        arrive(lane);
      }
    } else {
      for (int i = 0; i < count; ++i) {
        arrive(i);
      }
    }
  }

  // In btt_resident_stages.cuh.
  __device__ __forceinline__ void stage_one() const;
  __device__ __forceinline__ void stage_two() const;
  __device__ __forceinline__ void stage_two_sums() const;

  // Copies a tile of z to device memory: (token, phi, rho, gamma).
  __device__ void save_z(uint32_t z, int phi, int tile, int thread) const {
    constexpr int kVectors = S::kPhis * S::kDepthVectors;  // of a token
    constexpr int kRhoVectors = S::kGammas2 / 8;           // of a rho
    const int first_vector = S::kSplitK ? member * kRhoVectors : 0;
    for (int i = thread; i < kResidentTokens * kVectors;
         i += 32 * kResidentStageWarps) {
      const int t = i / kVectors;
      const int64_t token = static_cast<int64_t>(tile) * kResidentTokens + t;
      const int f = i / S::kDepthVectors % S::kPhis;
      const int depth = i % S::kDepthVectors;  // rho, gamma
      const int vector = first_vector + depth % kRhoVectors;
      if (token < p.tokens && phi + f < p.phi && vector < p.gamma / 8) {
        reinterpret_cast<uint4*>(p.z)
            [((token * p.phi + phi + f) * S::kRho + depth / kRhoVectors) *
                 (p.gamma / 8) +
             vector] =
                ptx::load_shared(
                    z + static_cast<uint32_t>(
                            t / 8 * S::kZNTile + depth * S::kZVector +
                            S::z_place(f, t % 8 / 2, t % 2)));
      }
    }
  }

  // Sums that start from the bias of rows `epsilon` (+ 8, + 16 ...) and four
  // phis. `times` is 1 with a bias and else 0, of which the compiler must not
  // know more (ptx::warp_uniform): it would make the condition one of each
  // load, and those take their turn all the same.
  template <int kTiles>
  __device__ __forceinline__ void start_y(
      int times,
      const __nv_bfloat16* bias,
      int epsilon,
      int phi,
      float (&sums)[4][kTiles][4]) const {
#pragma unroll
    for (int n = 0; n < 4; ++n) {
#pragma unroll
      for (int k = 0; k < kTiles; ++k) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          sums[n][k][i] = 0.0F;
        }
      }
    }
#pragma unroll 1
    for (int left = times; left > 0; --left) {
#pragma unroll
      for (int n = 0; n < 4; ++n) {
#pragma unroll
        for (int k = 0; k < kTiles; ++k) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const int row = epsilon + k * kFragmentRows + i / 2 * 8;
            sums[n][k][i] = __bfloat162float(bias[row * S::kPhi + phi + n]);
          }
        }
      }
    }
  }

  __device__ void run() const {
    init_barriers();
    if (warp < kConsumers) {
      ptx::setmaxnreg_inc<kConsumerRegisters>();
      if (p.wait_for_pack != 0) {
        ptx::grid_dependency_sync();
      }
      if (warp < kResidentStageWarps) {
        stage_one();
      } else if constexpr (S::kSplitK) {
        stage_two_sums();
      } else {
        stage_two();
      }
    } else {
      ptx::setmaxnreg_dec<kProducerRegisters>();
      if (warp == kConsumers) {
        produce_x();
      } else if (warp == kConsumers + 1) {
        send_y();
      } else if constexpr (S::kSplitK) {
        reduce_split_k(warp - kConsumers - 2);
      }
      __syncwarp();
    }
    if constexpr (S::kCluster > 1) {
      __syncwarp();
      ptx::cluster_sync();  // nobody leaves while others may still send to it
    }
  }
};

}  // namespace einforge::kernels::cuda

#include "einforge/kernels/cuda/btt_resident_stages.cuh"

namespace einforge::kernels::cuda {

template <typename S, bool kRouted>
__global__ void __launch_bounds__(BttResident<S, kRouted>::kThreads, 1)
    btt_resident_fwd_sm90(const __grid_constant__ BttResidentParams params) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ uint4 shared[];
  BttResident<S, kRouted> kernel(params, ptx::shared_address(shared));
  kernel.run();
#endif
}

}  // namespace einforge::kernels::cuda
