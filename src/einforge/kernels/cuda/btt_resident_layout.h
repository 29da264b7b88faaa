#pragma once

#include "einforge/kernels/cuda/btt_linear_layout.h"

// How the register-resident kernels (btt_resident.cuh) cut a layer over a
// cluster, and their index maps; the kernel, its host side and the emulation in
// the tests share them.
namespace einforge::kernels::cuda {

inline constexpr int kResidentTokens = 16;     // of a tile
inline constexpr int kResidentNTiles = 2;      // of 8 tokens, n of mma.m16n8k16
inline constexpr int kResidentStageWarps = 4;  // of each of the two stages
inline constexpr int kResidentLine = 128;      // bytes
inline constexpr int kResidentBytes = 231424;  // 1 KB of 227 KB aligns the rest

// TMA's swizzle of rows of 16 (mask + 1) bytes, on an offset in
// bytes from an aligned base.
EINFORGE_HOST_DEVICE constexpr int swizzled(int offset, int mask) {
  return offset ^ (((offset / 128) & mask) * 16);
}

// The address of offset `a + b` from that of offset a (no bits in common with
// b): swizzled() is linear over exclusive or.
EINFORGE_HOST_DEVICE constexpr uint32_t swizzled_from(
    uint32_t a, int b, int mask) {
  const auto offset = static_cast<uint32_t>(swizzled(b, mask));
  return (a ^ (offset & 1023U)) + (offset & ~1023U);
}

// Where z of token 2 q + j of an n-tile and phi f stands: 128 bytes for every
// phi, so arranged that a warp's writes (8 phis x 4 q, one j) and its reads (8
// tokens of a phi) are bank-conflict-free, and that the writes to another block
// are full lines.
EINFORGE_HOST_DEVICE constexpr int z_offset(int f, int q, int j) {
  return f / 2 * 256 + j * 128 + ((f % 2 ^ j) * 4 + q) * 16;
}

// Where it stands for a product of a warpgroup, which takes the tokens of a phi
// one after the other. Here a warp's writes must not all be of the same j.
EINFORGE_HOST_DEVICE constexpr int plain_z_offset(int f, int q, int j) {
  return f * 128 + (2 * q + j) * 16;
}

// One stage as one block sees it. A warp keeps `tiles` row tiles of one group
// of batches in registers; where there are fewer units than warps, warps share
// one and take different tokens.
struct ResidentStage {
  int groups;     // of batches: gamma in stage one, phi in stage two
  int batches;    // of a group: 8, or 4 where the depth is large
  int row_tiles;  // of 16 rows
  int steps;      // of 16 along the depth

  [[nodiscard]] EINFORGE_HOST_DEVICE constexpr int tiles() const {
    const int units = groups * row_tiles;
    return units > kResidentStageWarps ? units / kResidentStageWarps : 1;
  }
  [[nodiscard]] EINFORGE_HOST_DEVICE constexpr int sharing() const {
    return kResidentStageWarps / (groups * row_tiles / tiles());
  }
  // Whether every warp has as much to do.
  [[nodiscard]] EINFORGE_HOST_DEVICE constexpr bool even() const {
    return groups * row_tiles * sharing() == kResidentStageWarps * tiles();
  }
  [[nodiscard]] EINFORGE_HOST_DEVICE constexpr int registers() const {
    return tiles() * steps * batches * 4;
  }
};

// What a warp has of a stage.
struct ResidentUnit {
  int batch;     // its first
  int row_tile;  // its first
  int n_tile;    // its first
};
EINFORGE_HOST_DEVICE constexpr ResidentUnit resident_unit(
    const ResidentStage& stage, int worker) {
  const int tile_groups = stage.row_tiles / stage.tiles();
  return {
      worker % stage.groups * stage.batches,
      worker / stage.groups % tile_groups * stage.tiles(),
      worker / (stage.groups * tile_groups)};
}

// Rows of stage one are (phi / 8, rho, phi % 8): each group of 8 belongs to one
// rho, and a slice of phi is contiguous.
struct ResidentRows {
  int phi;  // the first of 8
  int rho;
};
EINFORGE_HOST_DEVICE constexpr ResidentRows resident_rows(
    int row_group, int rhos) {
  return {row_group / rhos * 8, row_group % rhos};
}

// Where a lane's 16 bytes of a member's sums stand among those of one sender:
// so arranged that a warp's writes, and reads of the lanes of one token side by
// side (lane % 4 is the token's), are bank-conflict-free.
EINFORGE_HOST_DEVICE constexpr int sum_offset(
    int row_tile, int n_tile, int i, int lane) {
  const int place = lane % 4 * 8 + (lane / 4 ^ lane % 4 * 2);
  return (((row_tile * kResidentNTiles + n_tile) * 4 + i) * 32 + place) * 16;
}

// Which of a layer's steps of 16 along the depth a block has: runs of `run`
// steps, `jump` apart, the first at `first`, of `all`.
struct ResidentDepth {
  int all;
  int run;
  int jump;
  int first;
  [[nodiscard]] EINFORGE_HOST_DEVICE constexpr int step(int i) const {
    return first + i / run * jump + i % run;
  }
};

// A cluster of kParts * kGroup blocks. In stage one block (part, member) has
// the phis of its part (1 / kParts) and the gammas of its member (1 / kGroup);
// x of its gammas comes to all parts at once. The blocks of a part exchange z:
// in stage two a member has 1 / kSplit of the epsilons for its share of the
// part's phis. With kSplitCount = 0 they keep z (a rank above 1 makes it larger
// than y) and exchange sums (split-K): a member does stage two over its own
// gammas, for all phis and epsilons of the part, and reduces 1 / kGroup of the
// epsilons.
//
// Where a cluster cannot hold the cores, it holds 1 / kChunks of phi at a time.
//
// A layer may be smaller: the cores are packed with zeros, and TMA
// reads zeros and writes nothing past the layer's own rows and columns.
template <
    int kAlphaSize,
    int kGammaSize,
    int kEpsilonSize,
    int kPhiSize,
    int kRhoSize,
    int kPartCount,
    int kGroupSize,
    int kSplitCount,
    int kChunkCount = 1,
    bool kAnyColumns = false>
struct ResidentShape {
  static constexpr int kAlpha = kAlphaSize;
  static constexpr int kGamma = kGammaSize;
  static constexpr int kEpsilon = kEpsilonSize;
  static constexpr int kPhi = kPhiSize;
  static constexpr int kRho = kRhoSize;
  static constexpr int kParts = kPartCount;
  static constexpr int kGroup = kGroupSize;
  static constexpr int kChunks = kChunkCount;
  static constexpr int kCluster = kParts * kGroup;
  static constexpr bool kSplitK = kGroup > 1 && kSplitCount == 0;
  static constexpr bool kExchange = kGroup > 1 && !kSplitK;
  static constexpr int kSplit = kSplitK ? kGroup : kSplitCount;

  static constexpr int kGammas = kGamma / kGroup;
  static constexpr int kPartPhis = kPhi / kParts / kChunks;
  static constexpr int kPhis = kPartPhis * kSplit / kGroup;
  static constexpr int kEpsilons = kEpsilon / kSplit;
  // Stage two: gammas of its depth, its epsilons.
  static constexpr int kGammas2 = kSplitK ? kGammas : kGamma;
  static constexpr int kEpsilons2 = kSplitK ? kEpsilon : kEpsilons;
  static constexpr int kSteps2 = kGammas2 * kRho / kFragmentDepth;
  static constexpr int kBatches2 = kSteps2 > 4 ? 4 : 8;
  static constexpr ResidentStage kOne{
      kGammas / 8, 8, kPartPhis* kRho / kFragmentRows, kAlpha / kFragmentDepth};
  static constexpr ResidentStage kTwo{
      kPhis / kBatches2, kBatches2, kEpsilons2 / kFragmentRows, kSteps2};
  static constexpr int kDepthVectors = kGammas2 * kRho / 8;

  // Rows of x and y in shared memory as TMA sees them: the block's
  // gammas (phis), or, where it has them all, lines of a token's features as
  // they lie in device memory, for which a layer must have as many gammas
  // (phis) as the kernel. kAnyColumns: no lines, so that it may have fewer.
  static constexpr bool kXLines = kGroup == 1 && !kAnyColumns;
  static constexpr bool kYLines = kCluster * kChunks == 1 && !kAnyColumns;
  static constexpr int kXRow = kXLines ? kResidentLine : kGammas * 2;
  static constexpr int kYRow = kYLines ? kResidentLine : kPhis * 2;
  static constexpr int kXMask = kXRow / 16 - 1;
  static constexpr int kYMask = kYRow / 16 - 1;
  static constexpr int kXToken = kAlpha * kGammas * 2;
  static constexpr int kYToken = kEpsilons * kPhis * 2;
  static constexpr int kXBytes = kResidentTokens * kXToken;
  static constexpr int kYBytes = kResidentTokens * kYToken;
  static constexpr int kZVector = kPhis * 128;  // of the depth
  static constexpr int kZNTile = kDepthVectors * kZVector;
  static constexpr int kZBytes = kResidentNTiles * kZNTile;
  EINFORGE_HOST_DEVICE static constexpr int z_place(int f, int q, int j) {
    return kSplitK ? plain_z_offset(f, q, j) : z_offset(f, q, j);
  }
  // What of y a block has.
  EINFORGE_HOST_DEVICE static constexpr int first_phi(
      int chunk, int part, int member) {
    return (chunk * kParts + part) * kPartPhis + member / kSplit * kPhis;
  }
  EINFORGE_HOST_DEVICE static constexpr int first_epsilon(int member) {
    return member % kSplit * kEpsilons;
  }
  static constexpr int kZFromOthers = kZBytes / kGroup * (kGroup - 1);
  // What a member gets from all members to reduce: (sender, row tile, n-tile,
  // register of the fragment, lane), 16 bytes each.
  static constexpr int kSumTiles = kEpsilons / kFragmentRows;
  static constexpr int kSumBytes = kSplitK ? kGroup * kYBytes : 0;
  static constexpr int kSumFromOthers = kSumBytes / kGroup * (kGroup - 1);

  // Buffers: two of z (three where it crosses between blocks) and of y; the
  // rest is x in flight.
  static constexpr int kYBuffers = 2;
  static constexpr int kZBuffers = kExchange ? 3 : 2;
  static constexpr int kSumBuffers = 3;
  static constexpr int kLeft = (kResidentBytes - 256 - kYBuffers * kYBytes -
                                kZBuffers * kZBytes - kSumBuffers * kSumBytes) /
                               kXBytes;
  static constexpr int kXBuffers = kLeft < 6 ? kLeft : 6;
  static constexpr int kX = 0;
  static constexpr int kZ = kXBuffers * kXBytes;
  static constexpr int kY = kZ + kZBuffers * kZBytes;
  static constexpr int kSum = kY + kYBuffers * kYBytes;
  static constexpr int kBarriers = kSum + kSumBuffers * kSumBytes;
  static constexpr int kBytes = kBarriers + 256 + 1024;

  static_assert(kGammas % 8 == 0 && kPhis % 8 == 0 && kEpsilons % 16 == 0);
  static_assert(kGroup % kSplit == 0 && kPartPhis * kRho % kFragmentRows == 0);
  static_assert(kOne.registers() <= 128 && kTwo.registers() <= 128);
  static_assert((kTwo.steps == 1 || kTwo.steps % 2 == 0) && kXBuffers >= 2);
  static_assert(kOne.even() && kTwo.even());
  // A warpgroup's product has 64 rows.
  static_assert(
      !kSplitK || (kGammas % kFragmentDepth == 0 && kPhis == 8 &&
                   kBatches2 == 8 && kTwo.row_tiles == kResidentStageWarps));
  static_assert(kXToken % 512 == 0 && kYToken % 256 == 0);
};

// The kernels there are: so many blocks that the cores fit their registers, and
// as wide rows of x and y as that allows, but for those that take any columns.
// `More` are the rest.
template <template <typename...> typename List, typename... More>
using ResidentRankOneTable = List<
    ResidentShape<16, 16, 16, 16, 1, 1, 1, 1>,
    ResidentShape<16, 16, 32, 32, 1, 1, 1, 1>,
    ResidentShape<32, 32, 16, 16, 1, 1, 1, 1>,
    ResidentShape<16, 32, 32, 16, 1, 1, 1, 1>,
    ResidentShape<32, 16, 16, 32, 1, 1, 1, 1>,
    ResidentShape<32, 16, 64, 32, 1, 1, 1, 1>,
    ResidentShape<64, 32, 32, 16, 1, 1, 1, 1>,
    ResidentShape<32, 32, 32, 32, 1, 1, 1, 1>,
    ResidentShape<64, 32, 64, 32, 1, 2, 1, 1>,
    ResidentShape<64, 64, 64, 64, 1, 2, 4, 2>,
    ResidentShape<32, 64, 64, 32, 1, 2, 2, 2>,
    ResidentShape<64, 32, 32, 64, 1, 2, 2, 1>,
    ResidentShape<32, 64, 32, 64, 1, 2, 2, 1>,
    ResidentShape<32, 32, 64, 64, 1, 4, 1, 1>,
    ResidentShape<64, 64, 32, 32, 1, 1, 4, 2>,
    ResidentShape<16, 32, 32, 16, 1, 1, 1, 1, 1, true>,
    ResidentShape<32, 16, 16, 32, 1, 1, 1, 1, 1, true>,
    ResidentShape<32, 32, 32, 32, 1, 1, 1, 1, 1, true>,
    ResidentShape<32, 32, 64, 64, 1, 4, 1, 1, 1, true>,
    More...>;

template <template <typename...> typename List>
using ResidentTable = ResidentRankOneTable<
    List,
    ResidentShape<32, 32, 32, 32, 4, 4, 1, 1>,
    ResidentShape<64, 64, 64, 64, 4, 2, 4, 0, 4>>;

}  // namespace einforge::kernels::cuda
