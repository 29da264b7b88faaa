#pragma once

#include "einforge/kernels/cuda/ptx_async.cuh"
#include "einforge/kernels/cuda/two_pass/params.h"
#include "einforge/kernels/cuda/two_pass/rows.cuh"

// The gradient of one core of a block-tensor-train layer: a block keeps its
// sums in registers over all its tokens. One warp copies by TMA; each of the
// others has 8 batches, 16 rows and 32 columns, 128 sums per thread. The tokens
// are the depth of the product. In p the batch is contiguous: 16 bytes are
// eight batches of one row, PRMT pairs two tokens. In q the columns are
// contiguous, and ldmatrix.trans reads it.
namespace einforge::kernels::cuda::two_pass {

inline constexpr int kGradTokens = 16;

template <GradShape S>
struct Grad {
  static constexpr int kColumnVectors = S.column_vectors();
  static constexpr uint32_t kMask = S.groups - 1;

  const GradParams& p;
  uint32_t shared;
  int lane;
  int warp;
  int group;
  int row_tile;
  int column_tile;
  int first_group;  // of the block
  int first_row;
  int first_vector;  // of (rho, columns)
  int split;
  RowSpan rows{0, 0};

  __device__ Grad(const GradParams& params, uint32_t address)
      : p(params), shared((address + 1023) & ~1023U) {
    lane = static_cast<int>(threadIdx.x) % 32;
    warp = ptx::warp_uniform(static_cast<int>(threadIdx.x) / 32);
    column_tile = warp % S.column_tiles;
    row_tile = warp / S.column_tiles % S.row_tiles;
    group = warp / (S.column_tiles * S.row_tiles);
    // Neighbouring groups share lines of p.
    int block = static_cast<int>(blockIdx.x);
    first_group = block % S.group_blocks() * S.groups;
    block /= S.group_blocks();
    first_row = block % S.row_blocks() * S.block_rows();
    block /= S.row_blocks();
    first_vector = block % S.column_blocks() * kColumnVectors;
    split = block / S.column_blocks();
  }

  __device__ uint32_t p_address(int buffer) const {
    return shared + static_cast<uint32_t>(buffer * (S.p_bytes() + S.q_bytes()));
  }
  __device__ uint32_t q_address(int buffer) const {
    return p_address(buffer) + S.p_bytes();
  }
  __device__ uint32_t gate_address(int buffer, int token) const {
    return p_address(S.buffers) +
           static_cast<uint32_t>(8 * (buffer * kGradTokens + token));
  }
  __device__ uint32_t full(int buffer) const {
    return gate_address(S.buffers, 0) + 8 * static_cast<uint32_t>(buffer);
  }
  __device__ uint32_t empty(int buffer) const {
    return full(S.buffers + buffer);
  }

  // Calls work(expert, tile, count) for every span of this block.
  template <typename Work>
  __device__ __forceinline__ void for_all_spans(const Work& work) {
    for_spans<kGradTokens>(
        p.list,
        1,
        split,
        p.splits,
        [&](int expert, int, const RowSpan& span, int tile, int count) {
          rows = span;
          work(expert, tile, count);
        });
  }

  __device__ void load_tile(
      int tile, int buffer, const RowsAhead<kGradTokens>& ahead) const {
    const int place = rows.begin + tile * kGradTokens;
    const int token = lane;
    const int row = row_of(ahead.pair[0], p.row_divisor);
    if (lane < kGradTokens) {
      ptx::store_shared_float(
          gate_address(buffer, token),
          ahead.pair[0] < 0 ? 0.0F : ahead.gate[0]);
    }
    __syncwarp();
    if (lane == 0) {
      constexpr int kBytes =
          kGradTokens * S.block_rows() * 16 * S.groups + S.q_bytes();
      ptx::barrier_expect(full(buffer), kBytes);
    } else if (lane < kArrivingLanes) {
      ptx::barrier_arrive(full(buffer));
    }
    __syncwarp();
    // Rows past an expert's last are zeros in p; in q they are another's, which
    // those zeros would not undo if they are not finite.
    if (lane < kGradTokens) {
      ptx::tensor_load(
          p_address(buffer) + static_cast<uint32_t>(token * S.token_bytes()),
          &p.p,
          first_group * 8,
          first_row,
          row < 0 ? p.in_rows : row,
          full(buffer));
    }
    for (int i = lane; i < S.groups * kColumnVectors; i += 32) {
      const int g = i / kColumnVectors;
      const int column = first_vector + i % kColumnVectors;
      const int r = column / (S.columns / 8);
      const int slab = column - r * (S.columns / 8);
      ptx::tensor_load(
          q_address(buffer) + static_cast<uint32_t>(i * kGradTokens * 128),
          &p.q,
          (r * S.batch + (first_group + g) * 8) * 8,
          place,
          r < S.rho ? slab : S.columns / 8,  // past the last: zeros
          full(buffer));
    }
  }

  __device__ void copy() {
    ptx::Ring<S.buffers> ring(1);
    for_all_spans([&](int, int tile, int count) {
      RowsAhead<kGradTokens> ahead(
          p.list, p.gates, rows.begin + tile * kGradTokens, rows.end);
#pragma unroll 1
      for (int i = 0; i < count; ++i) {
        ptx::barrier_wait(empty(ring.slot), ring.phase);
        load_tile(tile + i, ring.slot, ahead);
        ahead.next();
        ring.next();
      }
    });
  }

  // Gates of two tokens as pairs of bfloat16, the second what the first lacks.
  struct GatePair {
    uint32_t high;
    uint32_t low;
    __device__ GatePair(float first, float second) {
      high = ptx::round_pair(first, second);
      float a = -first;
      float b = -second;
      ptx::add_pair(a, b, high);
      low = ptx::round_pair(-a, -b);
    }
    __device__ uint32_t times(uint32_t v) const {
      return ptx::fma_pair(v, high, ptx::multiply_pair(v, low));
    }
  };

  using Sums = float[8][4][4];  // (batch, n-tile, fragment)

  // The tokens at depths 2 q and 2 q + 1 of a step are q and q + 4, and so on
  // for the next eight, so that four lanes read neighbours of p.
  template <bool kPartial>
  __device__ __forceinline__ void multiply_tile(
      Sums& sums, int buffer, int tokens) const {
    const int q = lane % 4;
    const uint32_t p_from =
        p_address(buffer) +
        static_cast<uint32_t>(
            q * S.token_bytes() +
            ((row_tile * 16 + lane / 4) * S.groups + group) * 16);
    uint4 v[2][2][2];  // (eight tokens, eight rows, odd depth)
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      uint32_t at = p_from + static_cast<uint32_t>(
                                 (i / 4 * 8 + i % 2 * 4) * S.token_bytes() +
                                 i / 2 % 2 * 8 * 16 * S.groups);
      at ^= ((at >> 7) & kMask) << 4;
      v[i / 4][i / 2 % 2][i % 2] = ptx::load_shared(at);
    }
    const bool gated = p.gates != nullptr;
    float gates[4];
    uint32_t masks[2];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      gates[i] = ptx::load_shared_float(gate_address(buffer, q + 4 * i));
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      masks[i] = (q + 8 * i < tokens ? 0x0000FFFFU : 0) |
                 (q + 8 * i + 4 < tokens ? 0xFFFF0000U : 0);
    }
    const GatePair first(gates[0], gates[1]);
    const GatePair second(gates[2], gates[3]);
    // Lanes 0 to 15 give the tokens of one vector of columns, the others of the
    // next.
    const int token = lane / 8 % 2 * 8 + lane % 2 * 4 + lane % 8 / 2;
    const uint32_t q_from =
        q_address(buffer) +
        static_cast<uint32_t>(
            ((group * kColumnVectors + column_tile * 4 + lane / 16) *
                 kGradTokens +
             token) *
            128);
    const auto swizzle = static_cast<uint32_t>(token % 8 * 16);
#pragma unroll
    for (int b = 0; b < 8; ++b) {
      uint4 w{
          paired(b, v[0][0]),
          paired(b, v[0][1]),
          paired(b, v[1][0]),
          paired(b, v[1][1])};
      if (gated) {  // here, where there is less to multiply than of q
        w = {
            first.times(w.x),
            first.times(w.y),
            second.times(w.z),
            second.times(w.w)};
      }
#pragma unroll
      for (int n = 0; n < 4; n += 2) {
        uint32_t x[4];
        ptx::load_matrix_transposed(
            q_from + static_cast<uint32_t>(n * kGradTokens * 128) +
                (static_cast<uint32_t>(b * 16) ^ swizzle),
            x[0],
            x[1],
            x[2],
            x[3]);
        if constexpr (kPartial) {
          x[0] &= masks[0];
          x[1] &= masks[1];
          x[2] &= masks[0];
          x[3] &= masks[1];
        }
        ptx::mma(sums[b][n], w, x[0], x[1]);
        ptx::mma(sums[b][n + 1], w, x[2], x[3]);
      }
    }
  }

  // Batch b of two tokens, the first in the low half.
  __device__ static __forceinline__ uint32_t
  paired(int b, const uint4 (&v)[2]) {
    const uint32_t first = ptx::word(v[0], b / 2);
    const uint32_t second = ptx::word(v[1], b / 2);
    return b % 2 == 0 ? ptx::low_pair(first, second)
                      : ptx::high_pair(first, second);
  }

  __device__ static void clear(Sums& sums) {
#pragma unroll
    for (int b = 0; b < 8; ++b) {
#pragma unroll
      for (int n = 0; n < 4; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          sums[b][n][i] = 0.0F;
        }
      }
    }
  }

  __device__ void store(const Sums& sums, int expert) const {
    constexpr int kColumns = S.rho * S.columns;
    float* slot = p.partials + static_cast<int64_t>(split + expert) * S.batch *
                                   S.rows * kColumns;
#pragma unroll
    for (int b = 0; b < 8; ++b) {
      const int batch = (first_group + group) * 8 + b;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = first_row + row_tile * 16 + half * 8 + lane / 4;
        float* to =
            slot + (static_cast<int64_t>(batch) * S.rows + row) * kColumns;
#pragma unroll
        for (int n = 0; n < 4; ++n) {
          const int column =
              (first_vector + column_tile * 4 + n) * 8 + 2 * (lane % 4);
          if (batch < S.batch && row < S.rows && column < kColumns) {
            *reinterpret_cast<float2*>(to + column) = {
                sums[b][n][2 * half], sums[b][n][2 * half + 1]};
          }
        }
      }
    }
  }

  __device__ void multiply() {
    ptx::Ring<S.buffers> ring(0);
    Sums sums;
    bool any = false;
    for_all_spans([&](int expert, int tile, int count) {
      any = true;
      clear(sums);
#pragma unroll 1
      for (int i = 0; i < count; ++i) {
        ptx::barrier_wait(full(ring.slot), ring.phase);
        const int tokens = rows.end - rows.begin - (tile + i) * kGradTokens;
        if (tokens >= kGradTokens) {
          multiply_tile<false>(sums, ring.slot, tokens);
        } else {
          multiply_tile<true>(sums, ring.slot, tokens);
        }
        __syncwarp();
        if (lane < kArrivingLanes) {
          ptx::barrier_arrive(empty(ring.slot));
        }
        ring.next();
      }
      store(sums, expert);
    });
    if (!any && p.list.offsets == nullptr) {
      clear(sums);
      store(sums, 0);
    }
  }

  __device__ void run() {
    if (threadIdx.x == 0) {
      for (int i = 0; i < S.buffers; ++i) {
        ptx::barrier_init(full(i), kArrivingLanes);
        ptx::barrier_init(empty(i), kArrivingLanes * S.warps());
      }
      ptx::barrier_init_fence();
    }
    __syncthreads();
    ptx::launch_dependents();
    ptx::grid_dependency_sync();
    if (warp >= S.warps()) {
      ptx::setmaxnreg_dec<kCopyRegisters>();
      if (warp == S.warps()) {
        copy();
      }
    } else {
      ptx::setmaxnreg_inc<232>();
      multiply();
    }
  }
};

template <GradShape S>
__device__ __forceinline__ void run_grad(const GradParams& params) {
  extern __shared__ uint4 shared[];
  Grad<S> grad(params, ptx::shared_address(shared));
  grad.run();
}

}  // namespace einforge::kernels::cuda::two_pass
