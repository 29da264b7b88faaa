#pragma once

#include "einforge/kernels/cuda/ptx_async.cuh"
#include "einforge/kernels/cuda/two_pass/params.h"
#include "einforge/kernels/cuda/two_pass/rows.cuh"

// One batched product of a block-tensor-train layer: weights of some batches
// and columns stay in shared memory, tiles of tokens stream past them.
//
// One warp copies by TMA, a few tiles ahead; the others multiply. Weights are
// the m16k16 operand of mma.sync, eight tokens are its n. In activations the
// batch is contiguous, so that 16 bytes are eight batches of one element of the
// depth: a lane reads four such vectors, and PRMT pairs two along the depth for
// each batch. In slabs the depth is contiguous, and ldmatrix reads the operand
// as it is. Both ways the sums of eight neighbouring batches round to one
// vector of 16 bytes.
namespace einforge::kernels::cuda::two_pass {

// Where TMA puts the 16 bytes at an address, of rows of 16 (mask + 1) bytes.
__device__ __forceinline__ uint32_t
swizzled_address(uint32_t a, uint32_t mask) {
  return a ^ (((a >> 7) & mask) << 4);
}

// Copies contiguous bytes, a multiple of 16, to this block's shared memory.
__device__ __forceinline__ void bulk_load(
    uint32_t shared, const void* global, int bytes, uint32_t barrier) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1], %2, [%3];" ::"r"(shared),
      "l"(global),
      "r"(bytes),
      "r"(barrier)
      : "memory");
#endif
}

// The other way, or added to what is there; bfloat16 sums are rounded.
__device__ __forceinline__ void bulk_store(
    void* global, uint32_t shared, int bytes) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(
          global),
      "r"(shared),
      "r"(bytes)
      : "memory");
#endif
}
__device__ __forceinline__ void bulk_add(
    void* global, uint32_t shared, int bytes) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.noftz.bf16 "
      "[%0], [%1], %2;" ::"l"(global),
      "r"(shared),
      "r"(bytes)
      : "memory");
#endif
}

template <StageShape S>
struct Stage {
  static constexpr int kDepthTiles = S.depth_tiles();
  static constexpr int kDepthTilesOfRho = kDepthTiles / S.rho;
  static constexpr int kTokenTiles = S.token_tiles;
  static constexpr int kColumnTiles = S.column_tiles;
  static constexpr int kUnitTokens = 8 * kTokenTiles;
  static constexpr int kTokenUnits = S.tokens / kUnitTokens;
  static constexpr int kColumnUnits = S.tiles / kColumnTiles;
  static constexpr int kUnits = S.vectors * kColumnUnits * kTokenUnits;
  static constexpr uint32_t kMask = S.swizzle();
  static constexpr bool kWhole = S.all_vectors() % S.vectors == 0;
  static constexpr bool kWholeColumns =
      S.column_chunks() * S.tiles * 16 == S.columns;
  static constexpr int kWorkers = 32 * S.warps;
  static_assert(S.tokens % kUnitTokens == 0);
  static_assert(S.tiles % kColumnTiles == 0);

  const StageParams& p;
  uint32_t shared;
  int lane;
  int warp;
  // Of the span.
  int first_vector = 0;
  int first_tile = 0;
  int expert = 0;
  RowSpan rows{0, 0};

  __device__ Stage(const StageParams& params, uint32_t address)
      : p(params), shared((address + 1023) & ~1023U) {
    lane = static_cast<int>(threadIdx.x) % 32;
    warp = ptx::warp_uniform(static_cast<int>(threadIdx.x) / 32);
  }

  __device__ uint32_t tile_address(int buffer) const {
    return shared +
           static_cast<uint32_t>(S.weight_bytes() + buffer * S.tile_bytes());
  }
  __device__ uint32_t out_address() const { return tile_address(S.buffers); }
  __device__ uint32_t meta_address(int buffer, int token) const {
    return out_address() + static_cast<uint32_t>(
                               S.out_bytes() + 8 * (buffer * S.tokens + token));
  }
  __device__ uint32_t barrier(int index) const {
    return meta_address(S.buffers, 0) + 8 * static_cast<uint32_t>(index);
  }
  __device__ uint32_t full(int buffer) const { return barrier(buffer); }
  __device__ uint32_t empty(int buffer) const {
    return barrier(S.buffers + buffer);
  }
  __device__ uint32_t weights_full() const { return barrier(2 * S.buffers); }
  __device__ uint32_t weights_empty() const {
    return barrier(2 * S.buffers + 1);
  }

  // Calls work(tile, count) for every span of this block.
  template <typename Work>
  __device__ __forceinline__ void for_all_spans(const Work& work) {
    for_spans<S.tokens>(
        p.list,
        S.vector_chunks() * S.column_chunks(),
        static_cast<int>(blockIdx.x),
        static_cast<int>(gridDim.x),
        [&](int e, int chunk, const RowSpan& span, int tile, int count) {
          expert = e;
          rows = span;
          first_vector = chunk % S.vector_chunks() * S.vectors;
          first_tile = chunk / S.vector_chunks() * S.tiles;
          work(tile, count);
        });
  }

  // --- the warp that copies ------------------------------------------------

  __device__ void load_weights() const {
    constexpr int kAllRun = S.all_tiles() * 8 * 32;  // vectors
    const auto* from =
        static_cast<const uint4*>(p.weights) + expert * S.packed_vectors() +
        static_cast<int64_t>(first_vector) * kDepthTiles * kAllRun +
        first_tile * (8 * 32);
    const int tiles = min(S.all_tiles() - first_tile, S.tiles);
    const int runs =
        min(S.all_vectors() - first_vector, S.vectors) * kDepthTiles;
    const int bytes = tiles * 8 * 32 * 16;
    expect(weights_full(), runs * bytes);
    for (int run = lane; run < runs; run += 32) {
      bulk_load(
          shared + static_cast<uint32_t>(run * S.tiles * 8 * 32 * 16),
          from + static_cast<int64_t>(run) * kAllRun,
          bytes,
          weights_full());
    }
  }

  __device__ void load_tile(
      int tile, int buffer, const RowsAhead<S.tokens>& ahead) const {
    const int place = rows.begin + tile * S.tokens;
    // The row and gate of each token, which the barrier publishes.
#pragma unroll
    for (int i = 0; i < ahead.kRows; ++i) {
      const int token = 32 * i + lane;
      if (S.tokens % 32 == 0 || token < S.tokens) {
        ptx::store_shared_half(
            meta_address(buffer, token),
            static_cast<uint32_t>(row_of(ahead.pair[i], p.row_divisor)),
            __float_as_uint(ahead.gate[i]));
      }
    }
    expect(full(buffer), S.copied_bytes());
    if constexpr (S.in_slabs) {
      constexpr int kSlabs = S.depth / 8;
      for (int i = lane; i < S.vectors * S.rho * kSlabs; i += 32) {
        const int eight = i / kSlabs;
        const int slab = i % kSlabs;
        ptx::tensor_load(
            tile_address(buffer) +
                static_cast<uint32_t>(
                    (eight * S.slabs() + slab) * S.tokens * 128),
            &p.in,
            (eight / S.vectors * S.batch +
             (first_vector + eight % S.vectors) * 8) *
                8,
            place,
            slab,
            full(buffer));
      }
    } else {
      for (int token = lane; token < S.tokens; token += 32) {
        const int row = static_cast<int>(
            ptx::load_shared_word(meta_address(buffer, token)));
        const uint32_t to = tile_address(buffer) +
                            static_cast<uint32_t>(token * S.token_bytes());
        if constexpr (S.whole_rows()) {
          // Past the last, any row: its sums are not stored.
          constexpr int kBytes = S.depth * 16 * S.vectors;
          bulk_load(
              to,
              static_cast<const uint8_t*>(p.in_data) +
                  static_cast<int64_t>(max(row, 0)) * kBytes,
              kBytes,
              full(buffer));
        } else {
          ptx::tensor_load(
              to,
              &p.in,
              first_vector * 8,
              0,
              row < 0 ? p.in_rows : row,
              full(buffer));
        }
      }
    }
  }

  __device__ void copy() {
    ptx::Ring<S.buffers> ring(1);
    uint32_t weights_phase = 1;
    for_all_spans([&](int tile, int count) {
      ptx::barrier_wait(weights_empty(), weights_phase);
      weights_phase ^= 1;
      load_weights();
      RowsAhead<S.tokens> ahead(
          p.list, p.gates, rows.begin + tile * S.tokens, rows.end);
#pragma unroll 1
      for (int i = 0; i < count; ++i) {
        ptx::barrier_wait(empty(ring.slot), ring.phase);
        load_tile(tile + i, ring.slot, ahead);
        ahead.next();
        ring.next();
      }
    });
  }

  // --- the warps that multiply ---------------------------------------------

  using Sums = float[8][kColumnTiles][kTokenTiles][4];

  // One lane's operands of eight batches and eight tokens from activations.
  struct Operand {
    uint4 v[4];
    __device__ uint32_t pair(int b, int i) const {
      const uint32_t first = ptx::word(v[2 * i], b / 2);
      const uint32_t second = ptx::word(v[2 * i + 1], b / 2);
      return b % 2 == 0 ? ptx::low_pair(first, second)
                        : ptx::high_pair(first, second);
    }
  };

  __device__ __forceinline__ void multiply_activations(
      Sums& sums,
      uint32_t weights,
      uint32_t in,
      int vector,
      int token_unit) const {
    const uint32_t from =
        in + static_cast<uint32_t>(
                 (token_unit * kUnitTokens + lane / 4) * S.token_bytes() +
                 lane % 4 * 16 * S.vectors + vector * 16);
#pragma unroll 1
    for (int step = 0; step < kDepthTiles; ++step) {
      uint4 w[kColumnTiles][8];
#pragma unroll
      for (int c = 0; c < kColumnTiles; ++c) {
#pragma unroll
        for (int b = 0; b < 8; ++b) {
          w[c][b] = ptx::load_shared(
              weights +
              16 * static_cast<uint32_t>(((step * S.tiles + c) * 8 + b) * 32));
        }
      }
#pragma unroll
      for (int t = 0; t < kTokenTiles; ++t) {
        Operand x;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          x.v[i] = ptx::load_shared(swizzled_address(
              from + static_cast<uint32_t>(
                         t * 8 * S.token_bytes() +
                         (step * 16 + 4 * i) * 16 * S.vectors),
              kMask));
        }
#pragma unroll
        for (int b = 0; b < 8; ++b) {
#pragma unroll
          for (int c = 0; c < kColumnTiles; ++c) {
            ptx::mma(sums[b][c][t], w[c][b], x.pair(b, 0), x.pair(b, 1));
          }
        }
      }
    }
  }

  __device__ __forceinline__ void multiply_slabs(
      Sums& sums,
      uint32_t weights,
      uint32_t in,
      int vector,
      int token_unit) const {
    // Lanes 8i to 8i + 7 give the rows of matrix i: slabs 0 and 1 of the
    // first eight tokens, then of the next.
    const uint32_t from =
        in + static_cast<uint32_t>(
                 ((lane / 8 % 2) * S.tokens + token_unit * kUnitTokens +
                  lane / 16 * 8 + lane % 8) *
                 128);
    const auto swizzle = static_cast<uint32_t>(lane % 8 * 16);
#pragma unroll 1
    for (int r = 0; r < S.rho; ++r) {
#pragma unroll 1
      for (int step = 0; step < kDepthTilesOfRho; ++step) {
        const uint32_t w_from =
            weights +
            16 * static_cast<uint32_t>(
                     (r * kDepthTilesOfRho + step) * S.tiles * 8 * 32);
        const uint32_t x_from =
            from + static_cast<uint32_t>(
                       ((r * S.vectors + vector) * S.slabs() + step * 2) *
                       S.tokens * 128);
#pragma unroll
        for (int b = 0; b < 8; ++b) {
          uint4 w[kColumnTiles];
#pragma unroll
          for (int c = 0; c < kColumnTiles; ++c) {
            w[c] = ptx::load_shared(
                w_from + 16 * static_cast<uint32_t>((c * 8 + b) * 32));
          }
          const uint32_t x_at =
              x_from + (static_cast<uint32_t>(b * 16) ^ swizzle);
#pragma unroll
          for (int t = 0; t < kTokenTiles; t += 2) {
            uint32_t x[4];
            ptx::load_matrix(
                x_at + static_cast<uint32_t>(t * 8 * 128),
                x[0],
                x[1],
                x[2],
                x[3]);
#pragma unroll
            for (int c = 0; c < kColumnTiles; ++c) {
              ptx::mma(sums[b][c][t], w[c], x[0], x[1]);
              ptx::mma(sums[b][c][t + 1], w[c], x[2], x[3]);
            }
          }
        }
      }
    }
  }

  // The rows and gates of a lane's tokens.
  struct Meta {
    int row[kTokenTiles][2];
    float gate[kTokenTiles][2];
  };

  __device__ Meta load_meta(int buffer, int token_unit) const {
    Meta meta;
#pragma unroll
    for (int t = 0; t < kTokenTiles; ++t) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const uint32_t at = meta_address(
            buffer, token_unit * kUnitTokens + t * 8 + 2 * (lane % 4) + j);
        meta.row[t][j] = static_cast<int>(ptx::load_shared_word(at));
        meta.gate[t][j] = ptx::load_shared_float(at + 4);
      }
    }
    return meta;
  }

  // Eight batches of one column and token each.
  __device__ __forceinline__ void store(
      const Sums& sums,
      const Meta& meta,
      int tile,
      int vector,
      int column_unit,
      int token_unit) const {
    const int v = first_vector + vector;
#pragma unroll
    for (int t = 0; t < kTokenTiles; ++t) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int token = token_unit * kUnitTokens + t * 8 + 2 * (lane % 4) + j;
        const int place = rows.begin + tile * S.tokens + token;
#pragma unroll
        for (int c = 0; c < kColumnTiles; ++c) {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const int own_column =
                (column_unit * kColumnTiles + c) * 16 + half * 8 + lane / 4;
            const int column = first_tile * 16 + own_column;
            float values[8];
#pragma unroll
            for (int b = 0; b < 8; ++b) {
              values[b] = meta.gate[t][j] * sums[b][c][t][2 * half + j];
            }
            const bool inside = kWholeColumns || column < S.columns;
            if constexpr (S.in_slabs) {
              if (p.bias != nullptr && inside) {
                add(values,
                    __ldg(
                        reinterpret_cast<const uint4*>(p.bias) +
                        column * S.all_vectors() + v));
              }
              const uint32_t at =
                  out_address() +
                  static_cast<uint32_t>(
                      token * S.out_token_bytes() +
                      own_column * S.out_column_bytes() + vector * 16);
              if constexpr (S.width == 0) {
                ptx::store_shared(swizzled_address(at, kMask), rounded(values));
              } else {
                store_row_part(at, vector, rounded(values));
              }
            } else {
              if (inside && meta.row[t][j] >= 0) {
                static_cast<uint4*>(
                    p.slabs)[(v * p.slab_rows + place) * S.columns + column] =
                    rounded(values);
              }
            }
          }
        }
      }
    }
  }

  // What of a vector is in a row of S.width elements.
  __device__ static __forceinline__ void store_row_part(
      uint32_t at, int vector, const uint4& v) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (8 * vector + 2 * i < S.width) {
        ptx::store_shared_float(
            at + 4 * static_cast<uint32_t>(i),
            __uint_as_float(ptx::word(v, i)));
      }
    }
  }

  __device__ static __forceinline__ void add(
      float (&values)[8], const uint4& v) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      ptx::add_pair(values[2 * i], values[2 * i + 1], ptx::word(v, i));
    }
  }
  __device__ static __forceinline__ uint4 rounded(const float (&values)[8]) {
    return {
        ptx::round_pair(values[0], values[1]),
        ptx::round_pair(values[2], values[3]),
        ptx::round_pair(values[4], values[5]),
        ptx::round_pair(values[6], values[7])};
  }

  // The activations of a tile from shared memory, a token a lane of one warp.
  __device__ void store_tile(const int (&row)[(S.tokens + 31) / 32]) const {
#pragma unroll
    for (int i = 0; i < (S.tokens + 31) / 32; ++i) {
      const int token = 32 * i + lane;
      if (token < S.tokens && row[i] >= 0) {
        const uint32_t from =
            out_address() + static_cast<uint32_t>(token * S.out_token_bytes());
        if constexpr (S.whole_rows()) {
          constexpr int kColumnBytes = S.out_column_bytes();
          const int first_column = first_tile * 16;
          const int bytes =
              min(S.columns - first_column, S.out_columns()) * kColumnBytes;
          uint8_t* to =
              static_cast<uint8_t*>(p.out_data) +
              (static_cast<int64_t>(row[i]) * S.columns + first_column) *
                  kColumnBytes;
          if (p.accumulate != 0) {
            bulk_add(to, from, bytes);
          } else {
            bulk_store(to, from, bytes);
          }
        } else if (p.accumulate != 0) {
          ptx::tensor_add(
              &p.out, first_vector * 8, first_tile * 16, row[i], from);
        } else {
          ptx::tensor_store(
              &p.out, first_vector * 8, first_tile * 16, row[i], from);
        }
      }
    }
    ptx::store_commit();
  }

  __device__ __forceinline__ void multiply_tile(int tile, int buffer) {
    int row[(S.tokens + 31) / 32];  // of this lane's token, in warp 0
    if constexpr (S.in_slabs) {
#pragma unroll
      for (int i = 0; i < (S.tokens + 31) / 32; ++i) {
        const int token = min(32 * i + lane, S.tokens - 1);
        row[i] = static_cast<int>(
            ptx::load_shared_word(meta_address(buffer, token)));
      }
    }
    bool waited = !S.in_slabs;
#pragma unroll 1
    for (int unit = warp; unit < kUnits; unit += S.warps) {
      const int token_unit = unit % kTokenUnits;
      const int vector = unit / kTokenUnits % S.vectors;
      const int column_unit = unit / (kTokenUnits * S.vectors);
      Sums sums;
#pragma unroll
      for (int b = 0; b < 8; ++b) {
#pragma unroll
        for (int c = 0; c < kColumnTiles; ++c) {
#pragma unroll
          for (int t = 0; t < kTokenTiles; ++t) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
              sums[b][c][t][i] = 0.0F;
            }
          }
        }
      }
      const bool inside =
          (kWhole || first_vector + vector < S.all_vectors()) &&
          (kWholeColumns ||
           first_tile + column_unit * kColumnTiles < S.all_tiles());
      const Meta meta = load_meta(buffer, token_unit);
      if (inside) {
        const uint32_t weights =
            shared + 16 * static_cast<uint32_t>(
                              (vector * kDepthTiles * S.tiles +
                               column_unit * kColumnTiles) *
                                  (8 * 32) +
                              lane);
        if constexpr (S.in_slabs) {
          multiply_slabs(
              sums, weights, tile_address(buffer), vector, token_unit);
        } else {
          multiply_activations(
              sums, weights, tile_address(buffer), vector, token_unit);
        }
      }
      if (unit + S.warps >= kUnits) {
        release(empty(buffer));
      }
      if (!waited) {
        wait_for_out();
        waited = true;
      }
      if (inside) {
        store(sums, meta, tile, vector, column_unit, token_unit);
      }
    }
    if (warp >= kUnits) {
      release(empty(buffer));
    }
    if constexpr (S.in_slabs) {
      if (!waited) {
        wait_for_out();
      }
      ptx::async_fence();
      ptx::named_barrier(1, kWorkers);
      if (warp == 0) {
        store_tile(row);
      }
    }
  }

  // Until TMA has read the last tile's activations.
  __device__ void wait_for_out() const {
    if (warp == 0) {
      ptx::store_wait_read();
    }
    ptx::named_barrier(2, kWorkers);
  }

  __device__ void release(uint32_t barrier_address) const {
    __syncwarp();
    if (lane < kArrivingLanes) {
      ptx::barrier_arrive(barrier_address);
    }
  }

  // For the copying warp, whose other lanes' writes the barrier publishes.
  __device__ void expect(uint32_t barrier_address, int bytes) const {
    __syncwarp();
    if (lane == 0) {
      ptx::barrier_expect(barrier_address, bytes);
    } else if (lane < kArrivingLanes) {
      ptx::barrier_arrive(barrier_address);
    }
    __syncwarp();
  }

  __device__ void multiply() {
    ptx::Ring<S.buffers> ring(0);
    uint32_t weights_phase = 0;
    for_all_spans([&](int tile, int count) {
      ptx::barrier_wait(weights_full(), weights_phase);
      weights_phase ^= 1;
#pragma unroll 1
      for (int i = 0; i < count; ++i) {
        ptx::barrier_wait(full(ring.slot), ring.phase);
        multiply_tile(tile + i, ring.slot);
        ring.next();
      }
      release(weights_empty());
    });
    if constexpr (S.in_slabs) {
      if (warp == 0) {
        ptx::store_wait_read();
      }
    }
  }

  __device__ void run() {
    const int thread = static_cast<int>(threadIdx.x);
    if (thread == 0) {
      for (int i = 0; i < S.buffers; ++i) {
        ptx::barrier_init(full(i), kArrivingLanes);
        ptx::barrier_init(empty(i), kArrivingLanes * S.warps);
      }
      ptx::barrier_init(weights_full(), kArrivingLanes);
      ptx::barrier_init(weights_empty(), kArrivingLanes * S.warps);
      ptx::barrier_init_fence();
    }
    if constexpr (S.depth % 16 != 0) {
      // What no copy writes is the zeros that the depth is padded with.
      for (int i = thread; i < S.buffers * S.tile_bytes() / 16;
           i += S.threads()) {
        ptx::store_shared(
            tile_address(0) + 16 * static_cast<uint32_t>(i), {0, 0, 0, 0});
      }
      ptx::async_fence();
    }
    __syncthreads();
    ptx::launch_dependents();
    ptx::grid_dependency_sync();
    if (warp >= S.warps) {
      ptx::setmaxnreg_dec<kCopyRegisters>();
      if (warp == S.warps) {
        copy();
      }
    } else {
      ptx::setmaxnreg_inc<S.registers()>();
      multiply();
    }
  }
};

template <StageShape S>
__device__ __forceinline__ void run_stage(const StageParams& params) {
  extern __shared__ uint4 shared[];
  Stage<S> stage(params, ptx::shared_address(shared));
  stage.run();
}

}  // namespace einforge::kernels::cuda::two_pass
