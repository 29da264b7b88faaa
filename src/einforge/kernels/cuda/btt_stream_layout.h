#pragma once

#include "einforge/kernels/cuda/btt_linear_layout.h"

// Index maps of the stream kernels (btt_stream.cuh), which the kernel, its
// host side and the emulation in the tests share.
namespace einforge::kernels::cuda {

// Tokens of a tile: m of mma.m16n8k16, so that every weight that a warp takes
// from shared memory is used once, and for the whole tile.
inline constexpr int kStreamTokens = 16;
// A row of a tile in shared memory: the 128 bytes that the copy engine's
// swizzle works on.
inline constexpr int kRowBytes = 128;
inline constexpr int kRowVectors = 8;

// Where vector `j` of a token stands: rows of 128 bytes whose vectors are
// permuted by the row (CU_TENSOR_MAP_SWIZZLE_128B; tiles are aligned to 1 KB).
EINFORGE_HOST_DEVICE constexpr int swizzled(int j) {
  const int row = j / kRowVectors;
  return row * kRowBytes + ((j % kRowVectors) ^ (row % kRowVectors)) * 16;
}

// The address of vector `a + b` from that of vector a, where a and b share no
// bits: swizzled() is linear over exclusive or.
EINFORGE_HOST_DEVICE constexpr uint32_t swizzled_from(uint32_t a, int b) {
  const auto offset = static_cast<uint32_t>(swizzled(b));
  return (a ^ (offset & 1023U)) + (offset & ~1023U);
}

// The same where a and b may share bits: the vector a ^ b, all of whose changes
// are within one row of eight (rows of `a` below 8, changed by b).
EINFORGE_HOST_DEVICE constexpr uint32_t swizzled_within(uint32_t a, int b) {
  return a ^ static_cast<uint32_t>(swizzled(b));
}

// Column (phi, rho) `c` of z of token `t`, gamma vector `v` of `vectors`. In
// place, this is one of the slots that held the same gamma vector of x, and
// only the warp that owns the gamma vector ever touches it. The token in the
// address keeps eight tokens of one column in different banks.
EINFORGE_HOST_DEVICE constexpr int z_position(
    int t, int c, int v, int vectors) {
  return swizzled((c ^ (t % 8)) * vectors + v);
}

// Weight chunks in flight: a constant, so that slots are known when compiling.
inline constexpr int kRing = 4;

// A weight chunk: for each of eight warps four batches of fragments (m16k16).
inline constexpr int kChunkBatches = 4;
inline constexpr int kWarpChunkBytes = kChunkBatches * 32 * 16;
inline constexpr int kChunkBytes = 8 * kWarpChunkBytes;

// One stage as `warps` warps share it: `vectors` octets of batches, each taken
// by `splits` warps that take every splits-th row tile.
struct StreamStage {
  int vectors;    // octets of gamma (stage one) or phi (stage two)
  int splits;     // warps / vectors
  int row_tiles;  // of 16 rows of weights
  int steps;      // of 16 along the depth

  [[nodiscard]] EINFORGE_HOST_DEVICE constexpr int rounds() const {
    return row_tiles / splits;
  }
  // The fragments of (octet, row tile, step), in vectors of 16 bytes.
  [[nodiscard]] EINFORGE_HOST_DEVICE constexpr int block(
      int octet, int row_tile, int step) const {
    return ((octet * row_tiles + row_tile) * steps + step) * kBlockVectors;
  }
};

// Shared memory, in bytes from a base aligned to 1 KB.
struct StreamLayout {
  int groups;  // of warps, each with a tile of its own
  int group_warps;
  bool in_place;  // z over x
  StreamStage one;
  StreamStage two;
  int x_token;  // bytes of a token of x
  int z_token;
  int y_token;  // of what one store to device memory takes
  int x;        // + group * group_bytes
  int z;
  int y;
  int group_bytes;
  int weights;
  int barriers;  // 8 bytes each
  int bytes;     // of everything
};

inline constexpr int kStreamBarriers = 32;

EINFORGE_HOST_DEVICE constexpr int align_kb(int bytes) {
  return (bytes + 1023) / 1024 * 1024;
}

// `resident`: three groups of four warps, weights loaded once; y takes z's
// place. Otherwise one group of eight warps, and weights pass through a ring.
// What does not fit in `shared_bytes` comes back too large.
EINFORGE_HOST_DEVICE constexpr StreamLayout stream_layout(
    int alpha,
    int gamma,
    int epsilon,
    int phi,
    bool resident,
    int shared_bytes) {
  StreamLayout s{};
  s.groups = resident ? 3 : 1;
  s.group_warps = resident ? 4 : 8;
  s.one = {
      gamma / 8,
      s.group_warps * 8 / gamma,
      phi / kFragmentRows,
      alpha / kFragmentDepth};
  s.two = {
      phi / 8,
      s.group_warps * 8 / phi,
      epsilon / kFragmentRows,
      gamma / kFragmentDepth};
  s.x_token = alpha * gamma * 2;
  s.z_token = phi * gamma * 2;
  s.y_token =
      resident ? epsilon * phi * 2 : s.two.splits * kFragmentRows * phi * 2;
  const int x_bytes = kStreamTokens * s.x_token;
  const int z_bytes = kStreamTokens * s.z_token;
  const int y_bytes = kStreamTokens * s.y_token;
  const int spare = 1024 + kStreamBarriers * 8;  // alignment and barriers
  if (resident) {
    s.in_place = true;
    s.z_token = s.x_token;
    s.group_bytes = x_bytes > y_bytes ? x_bytes : y_bytes;
    s.weights = s.groups * s.group_bytes;
    s.barriers = s.weights + (alpha * gamma * phi + epsilon * phi * gamma) * 2;
  } else {
    // z of its own leaves x free for the next tile from the start.
    s.in_place = x_bytes + z_bytes + y_bytes + kRing * kChunkBytes + spare >
                 shared_bytes;
    if (s.in_place) {
      s.z_token = s.x_token;
    } else {
      s.z = x_bytes;
    }
    s.y = x_bytes + (s.in_place ? 0 : z_bytes);
    s.weights = s.y + y_bytes;
    s.barriers = s.weights + kRing * kChunkBytes;
  }
  s.bytes = s.barriers + spare;
  return s;
}

}  // namespace einforge::kernels::cuda
