// The register-resident kernels' index maps, without a GPU: a cluster in plain
// loops that packs, copies, multiplies fragments and exchanges as the kernel
// does, against the layer's definition. Whole numbers make every order of sums
// exact.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "einforge/kernels/cuda/btt_resident_layout.h"

namespace einforge::kernels::cuda {
namespace {

using Vector = std::array<float, 8>;  // 16 bytes of bfloat16

constexpr int kLanes = 32;

// The widest row of times that 8 lanes of 16 bytes meet in a bank group.
int meetings(const std::array<int, kLanes>& addresses) {
  int worst = 0;
  for (int quarter = 0; quarter < 4; ++quarter) {
    std::array<int, 8> count{};
    for (int i = 0; i < 8; ++i) {
      const int address = addresses[quarter * 8 + i];
      worst = std::max(worst, ++count[address / 16 % 8]);
    }
  }
  return worst;
}

// A 16x8 result as a lane holds it: its element i.
struct ResultIndex {
  int row;
  int column;
};
ResultIndex result_index(int lane, int i) {
  return {lane / 4 + 8 * (i / 2), 2 * (lane % 4) + i % 2};
}

struct Fragment {  // 16x16
  float at[16][16];
};
struct Operand {  // 16x8
  float at[16][8];
};
struct Result {  // 16x8
  float at[16][8] = {};
  void add(const Fragment& a, const Operand& b) {
    for (int r = 0; r < 16; ++r) {
      for (int k = 0; k < 16; ++k) {
        for (int c = 0; c < 8; ++c) {
          at[r][c] += a.at[r][k] * b.at[k][c];
        }
      }
    }
  }
};

// One tile of tokens through all chunks of one cluster.
template <typename S>
class Cluster {
 public:
  static constexpr int kRows1 = S::kPhi * S::kRho;

  Cluster()
      : x_(kResidentTokens * S::kAlpha * S::kGamma),
        a_(S::kAlpha * S::kGamma * kRows1),
        b_(S::kEpsilon * S::kPhi * S::kGamma * S::kRho) {
    std::mt19937 random(1);
    for (auto* values : {&x_, &a_, &b_}) {
      for (float& v : *values) {
        v = static_cast<float>(static_cast<int>(random() % 7) - 3);
      }
    }
  }

  // y, NaN where nobody stored it.
  std::vector<float> run() {
    pack();
    y_.assign(kResidentTokens * S::kEpsilon * S::kPhi, kNan);
    for (int chunk = 0; chunk < S::kChunks; ++chunk) {
      shared_.assign(S::kCluster, std::vector<float>(S::kBytes / 2, kNan));
      for (int rank = 0; rank < S::kCluster; ++rank) {
        load_x(rank);
      }
      for (int rank = 0; rank < S::kCluster; ++rank) {
        for (int warp = 0; warp < kResidentStageWarps; ++warp) {
          stage_one(chunk, rank, warp);
        }
      }
      for (int rank = 0; rank < S::kCluster; ++rank) {
        for (int warp = 0; warp < kResidentStageWarps; ++warp) {
          stage_two(chunk, rank, warp);
        }
      }
      for (int rank = 0; rank < S::kCluster; ++rank) {
        if (S::kSplitK) {
          reduce_split_k(rank);
        }
        store_y(chunk, rank);
      }
    }
    return y_;
  }

  [[nodiscard]] std::vector<float> expected() const {
    std::vector<float> y(kResidentTokens * S::kEpsilon * S::kPhi, 0);
    std::vector<float> z(S::kGamma * S::kPhi * S::kRho);
    for (int t = 0; t < kResidentTokens; ++t) {
      std::fill(z.begin(), z.end(), 0.0F);
      for (int g = 0; g < S::kGamma; ++g) {
        for (int a = 0; a < S::kAlpha; ++a) {
          const float x = x_[(t * S::kAlpha + a) * S::kGamma + g];
          for (int fr = 0; fr < kRows1; ++fr) {
            z[g * kRows1 + fr] +=
                x * a_[core_a(g, a, fr / S::kRho, fr % S::kRho)];
          }
        }
      }
      for (int f = 0; f < S::kPhi; ++f) {
        for (int e = 0; e < S::kEpsilon; ++e) {
          float& sum = y[(t * S::kEpsilon + e) * S::kPhi + f];
          for (int g = 0; g < S::kGamma; ++g) {
            for (int r = 0; r < S::kRho; ++r) {
              sum += z[g * kRows1 + f * S::kRho + r] * b_[core_b(f, e, g, r)];
            }
          }
        }
      }
    }
    return y;
  }

  // The most lanes of a quarter of a warp that met in a bank.
  int z_write_meetings = 0;
  int z_read_meetings = 0;
  int x_read_meetings = 0;
  int sum_meetings = 1;

 private:
  static constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

  static int core_a(int g, int a, int f, int r) {
    return ((g * S::kAlpha + a) * S::kPhi + f) * S::kRho + r;
  }
  static int core_b(int f, int e, int g, int r) {
    return ((f * S::kEpsilon + e) * S::kGamma + g) * S::kRho + r;
  }

  Vector load(int rank, int address) const {
    Vector v;
    std::copy_n(shared_[rank].begin() + address / 2, 8, v.begin());
    return v;
  }
  void store(int rank, int address, const Vector& v, int count = 8) {
    std::copy_n(v.begin(), count, shared_[rank].begin() + address / 2);
  }

  // [batch / 8][row tile][step][batch % 8][lane], as btt_pack() writes it.
  void pack() {
    const auto stage = [](std::vector<Vector>& to,
                          int row_tiles,
                          int steps,
                          const auto& element) {
      for (int i = 0; i < static_cast<int>(to.size()); ++i) {
        const int block = i / kBlockVectors;
        const int step = block % steps;
        const int tile = block / steps % row_tiles;
        const int batch = block / steps / row_tiles * 8 + i / kLanes % 8;
        for (int k = 0; k < 8; ++k) {
          const FragmentIndex f = fragment_index(i % kLanes, k);
          to[i][k] = element(batch, tile * kFragmentRows + f.row, step, f.k);
        }
      }
    };
    one_.resize(a_.size() / 8);
    stage(
        one_,
        kRows1 / kFragmentRows,
        S::kAlpha / kFragmentDepth,
        [&](int g, int row, int step, int k) {
          const ResidentRows rows = resident_rows(row / 8, S::kRho);
          return a_[core_a(
              g,
              step * kFragmentDepth + alpha_of_depth(k),
              rows.phi + row % 8,
              rows.rho)];
        });
    two_.resize(b_.size() / 8);
    stage(
        two_,
        S::kEpsilon / kFragmentRows,
        S::kGamma * S::kRho / kFragmentDepth,
        [&](int f, int row, int step, int k) {
          const int depth = step * kFragmentDepth + k;  // rho, gamma
          return b_[core_b(f, row, depth % S::kGamma, depth / S::kGamma)];
        });
  }

  static Fragment weights(
      const std::vector<Vector>& packed,
      int batch,
      int row_tile,
      int row_tiles,
      int steps,
      int step) {
    Fragment a;
    const int at =
        ((batch / 8 * row_tiles + row_tile) * steps + step) * kBlockVectors +
        batch % 8 * kLanes;
    for (int lane = 0; lane < kLanes; ++lane) {
      for (int i = 0; i < 8; ++i) {
        const FragmentIndex f = fragment_index(lane, i);
        a.at[f.row][f.k] = packed[at + lane][i];
      }
    }
    return a;
  }

  // TMA: rows of the box, swizzled.
  void load_x(int rank) {
    const int member = rank % S::kGroup;
    for (int t = 0; t < kResidentTokens; ++t) {
      for (int i = 0; i < S::kAlpha * S::kGammas; ++i) {
        const int offset = S::kXToken * t + i * 2;
        const int a = i / S::kGammas;
        const int g = member * S::kGammas + i % S::kGammas;
        shared_[rank]
               [(S::kX + swizzled(offset / 16 * 16, S::kXMask) + offset % 16) /
                2] = x_[(t * S::kAlpha + a) * S::kGamma + g];
      }
    }
  }

  static int first_phi(int chunk, int rank) {
    return (chunk * S::kParts + rank / S::kGroup) * S::kPartPhis +
           rank % S::kGroup / S::kSplit * S::kPhis;
  }

  template <ResidentStage kStage>
  static std::array<int, 3> unit_of(int worker) {  // batch, row tile, eight
    constexpr int kGroups = kStage.row_tiles / kStage.tiles();
    return {
        worker % kStage.groups * kStage.batches,
        worker / kStage.groups % kGroups * kStage.tiles(),
        worker / (kStage.groups * kGroups)};
  }

  void stage_one(int chunk, int rank, int warp) {
    constexpr ResidentStage kStage = S::kOne;
    const int part = rank / S::kGroup;
    const int member = rank % S::kGroup;
    const auto [batch, first_tile, first_n_tile] = unit_of<kStage>(warp);
    for (int n_tile = first_n_tile; n_tile < kResidentNTiles;
         n_tile += kStage.sharing()) {
      for (int k = 0; k < kStage.tiles(); ++k) {
        const int tile = first_tile + k;
        Result sums[8];
        for (int step = 0; step < kStage.steps; ++step) {
          std::array<std::array<Vector, kLanes>, 4> v;
          for (int i = 0; i < 4; ++i) {
            std::array<int, kLanes> addresses;
            for (int lane = 0; lane < kLanes; ++lane) {
              const int row = lane / 4;
              const int alpha = 4 * (i % 2 ^ (row & 1)) + lane % 4;
              const auto from = static_cast<uint32_t>(
                  S::kX +
                  swizzled(
                      row * S::kXToken + alpha * S::kGammas * 2 + batch * 2,
                      S::kXMask));
              addresses[lane] = n_tile * 8 * S::kXToken +
                                static_cast<int>(swizzled_from(
                                    from,
                                    (16 * step + i / 2 * 8) * S::kGammas * 2,
                                    S::kXMask));
              v[i][lane] = load(rank, addresses[lane]);
            }
            x_read_meetings = std::max(x_read_meetings, meetings(addresses));
          }
          for (int n = 0; n < 8; ++n) {
            Operand b;
            for (int lane = 0; lane < kLanes; ++lane) {
              const int odd = lane / 4 & 1;
              for (int i = 0; i < 4; ++i) {  // of a pair, its halves; pairs
                b.at[2 * (lane % 4) + i % 2 + 8 * (i / 2)][lane / 4] =
                    v[i / 2 * 2 + (i % 2 ^ odd)][lane][n];
              }
            }
            sums[n].add(
                weights(
                    one_,
                    member * S::kGammas + batch + n,
                    (chunk * S::kParts + part) * kStage.row_tiles + tile,
                    kRows1 / kFragmentRows,
                    kStage.steps,
                    step),
                b);
          }
        }
        for (int i = 0; i < 4; ++i) {
          store_z(rank, batch, 2 * tile + i / 2, n_tile, i, sums);
        }
      }
    }
  }

  // Element i of the fragments of eight gammas, to whoever needs it.
  void store_z(
      int rank,
      int batch,
      int rows_of_8,
      int n_tile,
      int i,
      const Result (&sums)[8]) {
    const int part = rank / S::kGroup;
    const int member = rank % S::kGroup;
    const ResidentRows rows = resident_rows(rows_of_8, S::kRho);
    const int depth = (rows.rho * S::kGammas2 +
                       (S::kExchange ? member * S::kGammas : 0) + batch) /
                      8;
    for (int r = 0; r < (S::kExchange ? S::kSplit : 1); ++r) {
      const int receiver =
          S::kExchange ? part * S::kGroup + rows.phi / S::kPhis * S::kSplit + r
                       : rank;
      std::array<int, kLanes> addresses;
      for (int lane = 0; lane < kLanes; ++lane) {
        const int row = lane / 4;
        // Odd rows begin with the second token there.
        const ResultIndex at =
            result_index(lane, i ^ (S::kSplitK ? row % 2 : 0));
        Vector value;
        for (int n = 0; n < 8; ++n) {
          value[n] = sums[n].at[at.row][at.column];
        }
        addresses[lane] =
            S::kZ + n_tile * S::kZNTile + depth * S::kZVector +
            S::z_place(rows.phi % S::kPhis + row, at.column / 2, at.column % 2);
        store(receiver, addresses[lane], value);
      }
      z_write_meetings = std::max(z_write_meetings, meetings(addresses));
    }
  }

  void stage_two(int chunk, int rank, int worker) {
    constexpr ResidentStage kStage = S::kTwo;
    const int member = rank % S::kGroup;
    const auto [batch, first_tile, first_n_tile] = unit_of<kStage>(worker);
    constexpr int kRun = S::kGammas2 / kFragmentDepth;
    const ResidentDepth depth{
        S::kGamma * S::kRho / kFragmentDepth,
        kRun,
        S::kGamma / kFragmentDepth,
        S::kSplitK ? member * kRun : 0};
    const int first_row_tile =
        S::kSplitK ? 0 : member % S::kSplit * S::kEpsilons / kFragmentRows;
    for (int n_tile = first_n_tile; n_tile < kResidentNTiles;
         n_tile += kStage.sharing()) {
      for (int k = 0; k < kStage.tiles(); ++k) {
        std::array<Result, kStage.batches> sums{};
        for (int n = 0; n < kStage.batches; ++n) {
          const std::vector<Operand> z = operands(rank, n_tile, batch, n);
          for (int step = 0; step < kStage.steps; ++step) {
            sums[n].add(
                weights(
                    two_,
                    first_phi(chunk, rank) + batch + n,
                    first_row_tile + first_tile + k,
                    S::kEpsilon / kFragmentRows,
                    depth.all,
                    depth.step(step)),
                z[step]);
          }
        }
        store_sums(rank, batch, first_tile + k, n_tile, sums);
      }
    }
  }

  // z of phi batch + n and eight tokens, a step of depth each.
  std::vector<Operand> operands(int rank, int n_tile, int batch, int n) {
    constexpr int kSteps = S::kTwo.steps;
    std::vector<Operand> z(kSteps);
    if (S::kSplitK) {  // as a product of a warpgroup reads 8 x 8 matrices
      for (int i = 0; i < kSteps * 2 * 8; ++i) {  // (vector, token)
        const Vector row = load(
            rank,
            S::kZ + n_tile * S::kZNTile + i / 8 * S::kZVector +
                plain_z_offset(batch + n, 0, 0) + i % 8 * 16);
        for (int k = 0; k < 8; ++k) {
          z[i / 16].at[i / 8 % 2 * 8 + k][i % 8] = row[k];
        }
      }
      return z;
    }
    // Two steps of depth at once, but where there is only one.
    constexpr int kHalves = kSteps == 1 ? 1 : 2;
    for (int pair = 0; pair < kSteps / kHalves; ++pair) {
      std::array<Vector, kLanes> rows;  // of four 8x8 matrices, or two
      std::array<int, kLanes> addresses;
      for (int lane = 0; lane < kLanes; ++lane) {
        const int from = S::kZ + n_tile * S::kZNTile +
                         (lane / 8 % (2 * kHalves) * S::kPhis + batch) * 128 +
                         z_offset(0, lane % 8 / 2, lane % 2);
        addresses[lane] = (from ^ (n % 2 != 0 ? 64 : 0)) +
                          pair * 4 * S::kZVector + n / 2 * 256;
        rows[lane] = load(rank, addresses[lane]);
      }
      z_read_meetings = std::max(z_read_meetings, meetings(addresses));
      for (int half = 0; half < kHalves; ++half) {
        for (int lane = 0; lane < kLanes; ++lane) {
          for (int i = 0; i < 4; ++i) {
            const int q = 2 * (lane % 4) + i % 2;
            z[2 * pair + half].at[q + 8 * (i / 2)][lane / 4] =
                rows[8 * (2 * half + i / 2) + lane / 4][q];
          }
        }
      }
    }
    return z;
  }

  template <size_t kBatches>
  void store_sums(
      int rank,
      int batch,
      int row_tile,
      int n_tile,
      const std::array<Result, kBatches>& sums) {
    for (int i = 0; i < 4; ++i) {
      std::array<int, kLanes> addresses{};
      for (int lane = 0; lane < kLanes; ++lane) {
        const ResultIndex at = result_index(lane, i);
        Vector value{};
        for (size_t n = 0; n < kBatches; ++n) {
          value[n] = sums[n].at[at.row][at.column];
        }
        if (S::kSplitK) {
          addresses[lane] =
              S::kSum + rank % S::kGroup * S::kYBytes +
              sum_offset(row_tile % S::kSumTiles, n_tile, i, lane);
          store(
              rank / S::kGroup * S::kGroup + row_tile / S::kSumTiles,
              addresses[lane],
              value);
          continue;
        }
        const auto to = static_cast<uint32_t>(
            S::kY +
            swizzled(
                at.column * S::kYToken + lane / 4 * S::kPhis * 2 +
                    batch / 8 * 16,
                S::kYMask) +
            batch % 8 * 2);
        const int epsilons = row_tile * kFragmentRows + i / 2 * 8;
        store(
            rank,
            n_tile * 8 * S::kYToken +
                static_cast<int>(
                    swizzled_from(to, epsilons * S::kPhis * 2, S::kYMask)),
            value,
            kBatches);
      }
      if (S::kSplitK) {
        sum_meetings = std::max(sum_meetings, meetings(addresses));
      }
    }
  }

  void reduce_split_k(int rank) {
    for (int row_tile = 0; row_tile < S::kSumTiles; ++row_tile) {
      for (int n_tile = 0; n_tile < kResidentNTiles; ++n_tile) {
        for (int i = 0; i < 4; ++i) {
          std::array<int, kLanes> from;
          std::array<int, kLanes> to;
          for (int lane = 0; lane < kLanes; ++lane) {
            const int other = lane % 8 * 4 + lane / 8;  // whose sums it adds up
            const ResultIndex at = result_index(other, i);
            Vector total{};
            for (int sender = 0; sender < S::kGroup; ++sender) {
              from[lane] = S::kSum + sender * S::kYBytes +
                           sum_offset(row_tile, n_tile, i, other);
              const Vector v = load(rank, from[lane]);
              for (int n = 0; n < 8; ++n) {
                total[n] += v[n];
              }
            }
            const int epsilon = row_tile * kFragmentRows + at.row;
            to[lane] = S::kY + swizzled(
                                   (8 * n_tile + at.column) * S::kYToken +
                                       epsilon * S::kPhis * 2,
                                   S::kYMask);
            store(rank, to[lane], total);
          }
          sum_meetings = std::max({sum_meetings, meetings(from), meetings(to)});
        }
      }
    }
  }

  void store_y(int chunk, int rank) {
    for (int t = 0; t < kResidentTokens; ++t) {
      for (int i = 0; i < S::kEpsilons * S::kPhis; ++i) {
        const int offset = S::kYToken * t + i * 2;
        const int e =
            rank % S::kGroup % S::kSplit * S::kEpsilons + i / S::kPhis;
        const int f = first_phi(chunk, rank) + i % S::kPhis;
        y_[(t * S::kEpsilon + e) * S::kPhi + f] = shared_
            [rank]
            [(S::kY + swizzled(offset / 16 * 16, S::kYMask) + offset % 16) / 2];
      }
    }
  }

  std::vector<float> x_;
  std::vector<float> a_;
  std::vector<float> b_;
  std::vector<Vector> one_;
  std::vector<Vector> two_;
  std::vector<std::vector<float>> shared_;  // of each block
  std::vector<float> y_;
};

template <typename S>
class BttResident : public testing::Test {};

TYPED_TEST_SUITE(BttResident, ResidentTable<testing::Types>);

TYPED_TEST(BttResident, ComputesTheLayerFromItsIndexMaps) {
  Cluster<TypeParam> cluster;
  const std::vector<float> y = cluster.run();
  EXPECT_EQ(y, cluster.expected());
  EXPECT_EQ(cluster.z_write_meetings, 1);
  EXPECT_EQ(cluster.z_read_meetings, TypeParam::kSplitK ? 0 : 1);
  EXPECT_LE(cluster.x_read_meetings, 2);
  EXPECT_EQ(cluster.sum_meetings, 1);
  EXPECT_LE(TypeParam::kBytes, kResidentBytes + 1024);
}

}  // namespace
}  // namespace einforge::kernels::cuda
