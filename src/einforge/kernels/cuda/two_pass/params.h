#pragma once

#include <cstdint>

// What the host and the kernels of two_pass/ share. Compiled by the host's
// compiler and by NVRTC.
namespace einforge::kernels::cuda::two_pass {

// The rows that a launch works on: of a mixture those of each expert in turn,
// else 0, 1, ... `rows` - 1 as one expert's.
struct RowList {
  const int32_t* offsets;  // (experts * bins + 1), or null: no mixture
  const int32_t* order;    // (rows), the pair at each place; null with offsets
  int32_t experts;
  int32_t bins;  // of an expert; the launch takes those in [first, last)
  int32_t first;
  int32_t last;
  int32_t rows;
};

// A CUtensorMap, which cuda.h declares.
struct alignas(64) TensorMap {
  uint64_t opaque[16];
};

// Warps that copy by TMA: one does, of a warp group that gives its registers to
// the others.
inline constexpr int kCopyWarps = 4;
inline constexpr int kCopyRegisters = 40;

// Lanes of a warp that arrive at a barrier for it. Racecheck only follows
// threads that arrive for themselves; for it all do.
#ifdef EINFORGE_RACECHECK
inline constexpr int kArrivingLanes = 32;
#else
inline constexpr int kArrivingLanes = 1;
#endif

struct StageParams {
  TensorMap in;   // activations or slabs, see StageShape::in_slabs
  TensorMap out;  // activations, with in_slabs
  // The activations again, for whole_rows(): in_slabs writes them, else reads.
  const void* in_data;
  void* out_data;
  void* slabs;           // written without in_slabs
  const void* weights;   // packed, StageShape's fragments, expert after expert
  const float* gates;    // of each pair, or null: multiplies the output
  const uint16_t* bias;  // (columns, batch) bfloat16, or null
  RowList list;
  int64_t slab_rows;  // rows of a slab
  // Row of an activation = pair / divisor: the number of active experts for
  // one row per token, 1 for one row per pair.
  int32_t row_divisor;
  int32_t in_rows;     // of activations; a row past them is zeros
  int32_t out_rows;    // of activations; a row past them is not written
  int32_t accumulate;  // add to the activations that `out` has
};

// Of one batched product, out[t, c, b] = sum_k in[t, k, b] W[b, k, c], and how
// a block cuts it. b is contiguous in both activations.
//
// Slabs are how an intermediate lies in memory: vectors of eight elements
// (16 bytes), as (vector of b, row, c). Read by the next product, b is the
// depth and c = (rho, batch).
struct StageShape {
  int batch;        // a multiple of 8
  int depth;        // of each rho; a multiple of 8 with in_slabs
  int rho;          // of the depth: 1 unless in_slabs
  int columns;      // c
  bool in_slabs;    // reads slabs, writes activations; else the reverse
  int vectors;      // of eight of the batch that a block has: 1, 2, 4, 8 or all
  int tiles;        // of 16 columns that a block has weights of
  int tokens;       // of a tile, a multiple of 8 * token_tiles
  int token_tiles;  // of 8 tokens that a warp has sums of, 2 or 4
  int column_tiles;  // of 16 columns that a warp has sums of, 1 or 2
  int warps;         // that multiply, 8 or 12; a warp group more copies
  int buffers;       // tiles of tokens in shared memory
  // Of the batch, what rows of the activations that are written have, where
  // that is no multiple of eight: an even number, by blocks with all vectors.
  // Else 0.
  int width = 0;

  constexpr int depth_tiles() const { return rho * ((depth + 15) / 16); }
  constexpr int all_vectors() const { return batch / 8; }
  constexpr int all_tiles() const { return (columns + 15) / 16; }
  constexpr int vector_chunks() const {
    return (all_vectors() + vectors - 1) / vectors;
  }
  constexpr int column_chunks() const {
    return (all_tiles() + tiles - 1) / tiles;
  }
  constexpr int threads() const { return 32 * (warps + kCopyWarps); }
  // Whether a block has whole rows of the batch, of a number of elements that
  // no swizzle fits: what it has of a token is one contiguous span of memory.
  constexpr bool whole_rows() const {
    return vectors == all_vectors() &&
           ((vectors & (vectors - 1)) != 0 || width != 0);
  }
  // Of the addresses of activations in shared memory.
  constexpr uint32_t swizzle() const {
    return whole_rows() ? 0 : static_cast<uint32_t>(vectors - 1);
  }
  // Registers of a thread that multiplies, by setmaxnreg.
  constexpr int registers() const { return warps == 8 ? 232 : 152; }

  // Shared memory, in bytes. TMA swizzles rows of 32 bytes or more by bits 7 to
  // 9 of the address. Of activations, rows are (token, depth) and a token's
  // stride is such that reads of two tokens and four rows are free of bank
  // conflicts; of slabs, rows of 128 bytes are (rho, vector, slab, token),
  // eight of the batch each.
  constexpr int token_bytes() const {
    const int padding = whole_rows()   ? (vectors % 2 != 0 ? 64 : 16)
                        : vectors == 1 ? 0
                                       : 64 * vectors;
    return 16 * vectors * 16 * depth_tiles() + padding;
  }
  constexpr int slabs() const { return (depth + 15) / 16 * 2; }
  constexpr int tile_bytes() const {
    return in_slabs ? vectors * rho * slabs() * tokens * 128
                    : (tokens * token_bytes() + 1023) / 1024 * 1024;
  }
  constexpr int copied_bytes() const {  // of a tile, by TMA
    return in_slabs ? vectors * rho * (depth / 8) * tokens * 128
                    : tokens * depth * 16 * vectors;
  }
  constexpr int weight_bytes() const {
    return 16 * vectors * depth_tiles() * tiles * 8 * 32;
  }
  constexpr int out_columns() const { return 16 * tiles; }
  constexpr int out_column_bytes() const {
    return width != 0 ? 2 * width : 16 * vectors;
  }
  // Whole rows of tokens are out of step, for the same reason.
  constexpr int out_token_bytes() const {
    return out_columns() * out_column_bytes() + (whole_rows() ? 16 : 0);
  }
  constexpr int out_bytes() const {
    return in_slabs ? tokens * out_token_bytes() : 0;
  }
  // Of all chunks of one expert, in vectors.
  constexpr int64_t packed_vectors() const {
    return static_cast<int64_t>(all_vectors()) * depth_tiles() * all_tiles() *
           8 * 32;
  }
  constexpr int shared_bytes() const {
    return 1024 + weight_bytes() + buffers * (tile_bytes() + tokens * 8) +
           out_bytes() + 8 * (2 * buffers + 2);
  }
};

struct GradParams {
  TensorMap p;         // activations (., rows, batch)
  TensorMap q;         // slabs (vector of columns, row, (rho, batch))
  const float* gates;  // of each pair, or null: multiplies q
  float* partials;     // (slots, batch, rows, rho, columns)
  RowList list;
  int32_t row_divisor;
  int32_t in_rows;  // of p; a row past them is zeros
  int32_t splits;
};

// Of the batched product over tokens, grad[b, m, (r, n)] = sum_t p[t, m, b]
// q[t, b, r, n]. A block has 8 `groups` batches, 16 row_tiles rows and 32
// column_tiles columns; groups * row_tiles * column_tiles = 8 warps.
struct GradShape {
  int batch;  // a multiple of 8
  int rows;   // m
  int rho;
  int columns;  // n; a multiple of 8
  int groups;   // 1, 2, 4 or 8
  int row_tiles;
  int column_tiles;
  int buffers;

  constexpr int warps() const { return groups * row_tiles * column_tiles; }
  constexpr int threads() const { return 32 * (warps() + kCopyWarps); }
  constexpr int block_rows() const { return 16 * row_tiles; }
  constexpr int column_vectors() const { return 4 * column_tiles; }
  constexpr int group_blocks() const {
    return (batch / 8 + groups - 1) / groups;
  }
  constexpr int row_blocks() const {
    return (rows + block_rows() - 1) / block_rows();
  }
  constexpr int column_blocks() const {
    return (rho * columns / 8 + column_vectors() - 1) / column_vectors();
  }
  constexpr int blocks() const {
    return group_blocks() * row_blocks() * column_blocks();
  }
  // In bytes. p is (token, row, 8 groups of the batch); q rows of 128 bytes,
  // (group, vector of columns, token), eight of the batch each.
  constexpr int token_bytes() const {
    const int bytes = block_rows() * 16 * groups;
    return groups == 1 ? bytes : bytes + 64 * groups;
  }
  constexpr int p_bytes() const {
    return (16 * token_bytes() + 1023) / 1024 * 1024;
  }
  constexpr int q_bytes() const { return groups * column_vectors() * 16 * 128; }
  constexpr int shared_bytes() const {
    return 1024 + buffers * (p_bytes() + q_bytes() + 16 * 8 + 16);
  }
};

}  // namespace einforge::kernels::cuda::two_pass
