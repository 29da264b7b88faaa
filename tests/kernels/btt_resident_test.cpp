// The register-resident kernels' index maps, which the kernels share, without a
// GPU: nothing is placed twice, left out or out of bounds, a warp's accesses of
// shared memory are bank-conflict-free, and the warps and blocks of a cluster
// share out a layer. Whether a kernel computes the layer, tests/ops asks on
// one.
#include "einforge/kernels/cuda/btt_resident_layout.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <tuple>
#include <vector>

namespace einforge::kernels::cuda {
namespace {

constexpr int kLanes = 32;
constexpr int kVectorBytes = 16;

// How often the busiest group of banks is asked for by 8 lanes that a request
// of 16 bytes a lane serves at once: 1 is free of conflicts.
int conflicts(const std::array<int, kLanes>& addresses) {
  int worst = 0;
  for (int quarter = 0; quarter < 4; ++quarter) {
    std::array<int, 8> count{};
    for (int i = 0; i < 8; ++i) {
      const int address = addresses[quarter * 8 + i];
      worst = std::max(worst, ++count[address / kVectorBytes % 8]);
    }
  }
  return worst;
}

template <typename At>
int conflicts_of_lanes(const At& at) {
  std::array<int, kLanes> addresses{};
  for (int lane = 0; lane < kLanes; ++lane) {
    addresses[lane] = at(lane);
  }
  return conflicts(addresses);
}

// Whole vectors, each at a place of its own, which fill [0, bytes).
void expect_fills(const std::vector<int>& offsets, int bytes) {
  const std::set<int> all(offsets.begin(), offsets.end());
  EXPECT_EQ(all.size(), offsets.size());
  EXPECT_EQ(static_cast<int>(all.size()) * kVectorBytes, bytes);
  EXPECT_EQ(*all.begin(), 0);
  EXPECT_EQ(*all.rbegin(), bytes - kVectorBytes);
  EXPECT_TRUE(std::ranges::all_of(
      all, [](int offset) { return offset % kVectorBytes == 0; }));
}

template <typename S>
class BttResident : public testing::Test {};

TYPED_TEST_SUITE(BttResident, ResidentTable<testing::Types>);

TYPED_TEST(BttResident, SwizzlesWithinATile) {
  using S = TypeParam;
  for (const auto& [bytes, mask] :
       {std::pair{S::kXBytes, S::kXMask}, std::pair{S::kYBytes, S::kYMask}}) {
    std::vector<int> offsets;
    for (int offset = 0; offset < bytes; offset += kVectorBytes) {
      offsets.push_back(swizzled(offset, mask));
      EXPECT_EQ(offsets.back() / 1024, offset / 1024);
    }
    expect_fills(offsets, bytes);
    // From an address, for steps that have no bits in common with it.
    for (int a = 0; a < 1024; a += kVectorBytes) {
      for (int b = 0; b < bytes; b += kVectorBytes) {
        if ((a & b) == 0 && a + b < bytes) {
          ASSERT_EQ(
              static_cast<int>(swizzled_from(
                  static_cast<uint32_t>(swizzled(a, mask)), b, mask)),
              swizzled(a + b, mask))
              << a << ' ' << b;
        }
      }
    }
  }
}

TYPED_TEST(BttResident, PlacesZOnce) {
  using S = TypeParam;
  std::vector<int> offsets;
  for (int n_tile = 0; n_tile < kResidentNTiles; ++n_tile) {
    for (int depth = 0; depth < S::kDepthVectors; ++depth) {
      for (int phi = 0; phi < S::kPhis; ++phi) {
        for (int token = 0; token < 8; ++token) {
          offsets.push_back(
              n_tile * S::kZNTile + depth * S::kZVector +
              S::z_place(phi, token / 2, token % 2));
        }
      }
    }
  }
  expect_fills(offsets, S::kZBytes);
}

TYPED_TEST(BttResident, WritesAndReadsZWithoutBankConflicts) {
  using S = TypeParam;
  for (int odd = 0; odd < 2; ++odd) {
    // A lane has element `odd` of row lane / 4 (phi) and tokens 2 (lane % 4);
    // for products of a warpgroup odd rows begin with the second token.
    EXPECT_EQ(
        conflicts_of_lanes([&](int lane) {
          const int row = lane / 4;
          const int j = S::kSplitK ? odd ^ row % 2 : odd;
          return S::z_place(row, lane % 4, j);
        }),
        1);
  }
  if (S::kSplitK) {
    return;  // read by products of a warpgroup, as plain rows
  }
  // ldmatrix: lanes 8 m to 8 m + 7 give the tokens of depth vector m.
  constexpr int kMatrices = S::kTwo.steps == 1 ? 2 : 4;
  for (int phi = 0; phi < S::kPhis; ++phi) {
    EXPECT_EQ(
        conflicts_of_lanes([&](int lane) {
          return lane / 8 % kMatrices * S::kZVector +
                 z_offset(phi, lane % 8 / 2, lane % 2);
        }),
        1)
        << phi;
  }
}

TYPED_TEST(BttResident, PlacesSumsOnceWithoutBankConflicts) {
  using S = TypeParam;
  if (!S::kSplitK) {
    GTEST_SKIP() << "z is exchanged, or nothing";
  }
  std::vector<int> offsets;
  for (int row_tile = 0; row_tile < S::kSumTiles; ++row_tile) {
    for (int n_tile = 0; n_tile < kResidentNTiles; ++n_tile) {
      for (int i = 0; i < 4; ++i) {
        const auto at = [&](int lane) {
          return sum_offset(row_tile, n_tile, i, lane);
        };
        for (int lane = 0; lane < kLanes; ++lane) {
          offsets.push_back(at(lane));
        }
        EXPECT_EQ(conflicts_of_lanes(at), 1);
        EXPECT_EQ(  // by a reducer warp: the lanes of one token side by side
            conflicts_of_lanes(
                [&](int lane) { return at(lane % 8 * 4 + lane / 8); }),
            1);
      }
    }
  }
  expect_fills(offsets, S::kYBytes);
}

// Each (batch, row tile, n-tile) of a stage belongs to one warp.
template <typename S>
void expect_shared_out(const ResidentStage& stage) {
  std::map<std::tuple<int, int, int>, int> owners;
  for (int warp = 0; warp < kResidentStageWarps; ++warp) {
    const ResidentUnit unit = resident_unit(stage, warp);
    for (int n_tile = unit.n_tile; n_tile < kResidentNTiles;
         n_tile += stage.sharing()) {
      for (int tile = 0; tile < stage.tiles(); ++tile) {
        for (int batch = 0; batch < stage.batches; ++batch) {
          ++owners[{unit.batch + batch, unit.row_tile + tile, n_tile}];
        }
      }
    }
  }
  EXPECT_EQ(
      static_cast<int>(owners.size()),
      stage.groups * stage.batches * stage.row_tiles * kResidentNTiles);
  for (const auto& [unit, count] : owners) {
    EXPECT_EQ(count, 1);
    EXPECT_LT(std::get<0>(unit), stage.groups * stage.batches);
    EXPECT_LT(std::get<1>(unit), stage.row_tiles);
  }
  EXPECT_LE(stage.registers(), 128);
}

TYPED_TEST(BttResident, SharesOutStagesAmongWarps) {
  expect_shared_out<TypeParam>(TypeParam::kOne);
  if (!TypeParam::kSplitK) {  // where a warp has a row tile of all
    expect_shared_out<TypeParam>(TypeParam::kTwo);
  }
}

// Each (epsilon, phi) of y is of one block and chunk, each depth of stage two
// of one member where these reduce, and each row of stage one of one (phi,
// rho).
TYPED_TEST(BttResident, SharesOutTheLayerAmongBlocks) {
  using S = TypeParam;
  std::map<std::pair<int, int>, int> owners;
  for (int chunk = 0; chunk < S::kChunks; ++chunk) {
    for (int part = 0; part < S::kParts; ++part) {
      for (int member = 0; member < S::kGroup; ++member) {
        for (int e = 0; e < S::kEpsilons; ++e) {
          for (int f = 0; f < S::kPhis; ++f) {
            ++owners[{
                S::first_epsilon(member) + e,
                S::first_phi(chunk, part, member) + f}];
          }
        }
      }
    }
  }
  EXPECT_EQ(static_cast<int>(owners.size()), S::kEpsilon * S::kPhi);
  EXPECT_EQ(owners.rbegin()->first, (std::pair{S::kEpsilon - 1, S::kPhi - 1}));
  EXPECT_TRUE(std::ranges::all_of(
      owners, [](const auto& owner) { return owner.second == 1; }));

  std::set<int> steps;
  constexpr int kRun = S::kGammas2 / kFragmentDepth;
  for (int member = 0; member < (S::kSplitK ? S::kGroup : 1); ++member) {
    const ResidentDepth depth{
        S::kGamma * S::kRho / kFragmentDepth,
        kRun,
        S::kGamma / kFragmentDepth,
        member * kRun};
    for (int i = 0; i < S::kTwo.steps; ++i) {
      EXPECT_TRUE(steps.insert(depth.step(i)).second);
    }
  }
  EXPECT_EQ(static_cast<int>(steps.size()), S::kGamma * S::kRho / 16);
  EXPECT_EQ(*steps.rbegin(), S::kGamma * S::kRho / 16 - 1);

  std::set<std::pair<int, int>> rows;
  for (int group = 0; group < S::kPhi * S::kRho / 8; ++group) {
    const ResidentRows found = resident_rows(group, S::kRho);
    EXPECT_EQ(found.phi % 8, 0);
    EXPECT_LT(found.phi, S::kPhi);
    EXPECT_LT(found.rho, S::kRho);
    rows.insert({found.phi, found.rho});
  }
  EXPECT_EQ(static_cast<int>(rows.size()), S::kPhi * S::kRho / 8);
}

TYPED_TEST(BttResident, FitsInSharedMemory) {
  using S = TypeParam;
  EXPECT_LE(S::kBytes, kResidentBytes + 1024);
  EXPECT_GE(S::kXBuffers, 2);
  EXPECT_GE(S::kZ, S::kX + S::kXBuffers * S::kXBytes);
  EXPECT_GE(S::kY, S::kZ + S::kZBuffers * S::kZBytes);
  EXPECT_GE(S::kSum, S::kY + S::kYBuffers * S::kYBytes);
}

TEST(Fragments, HoldEachElementOnce) {
  std::set<std::pair<int, int>> elements;
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int i = 0; i < 8; ++i) {
      const FragmentIndex at = fragment_index(lane, i);
      elements.insert({at.row, at.k});
    }
  }
  EXPECT_EQ(elements.size(), 256);
  EXPECT_EQ(*elements.rbegin(), (std::pair{15, 15}));
  std::set<int> alphas;
  for (int k = 0; k < kFragmentDepth; ++k) {
    alphas.insert(alpha_of_depth(k));
  }
  EXPECT_EQ(alphas.size(), 16);
  EXPECT_EQ(*alphas.rbegin(), 15);
}

}  // namespace
}  // namespace einforge::kernels::cuda
