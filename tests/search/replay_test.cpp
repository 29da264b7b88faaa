// Schedulers on 420 trials that were trained once:
// results/cpu/search_table.csv. benchmarks/search_replay.py is the long form of
// it.

#include "benchmarks/search/replay.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "einforge/base/config.h"
#include "einforge/data/prepare.h"
#include "tests/search/testing.h"

namespace einforge::search::replay {
namespace {

class ReplayTest : public ::testing::Test {
 protected:
  static Player make_player(const testing::TemporaryFolder& folder) {
    const auto root = testing::source_root();
    data::PrepareOptions options;
    options.inputs = {(root / "examples/data").string()};
    options.out = folder / "data";
    options.tokens = "chars96";
    options.progress = false;
    data::prepare(options);
    auto config = base::read_config<SearchConfig>(
        (root / "benchmarks/search/replay.toml").string(), {});
    config.train.data.path = (folder / "data").string();
    return {
        std::move(config),
        read_table((root / "results/cpu/search_table.csv").string())};
  }

  // Whole trials' worth of FLOPs that are spent until one of the best ended.
  double cost_until_best(const std::string& kind, std::uint64_t seed) {
    std::map<std::size_t, double> from;  // FLOPs of the rung before, by row
    std::set<std::size_t> best;
    double least = INFINITY;
    for (const auto& rows : player_.trials()) {
      least = std::min(least, rows.back().loss);
    }
    for (const auto& rows : player_.trials()) {
      double before = 0;
      for (const Row& row : rows) {
        from[row.index] = (row.flops - before) / rows.back().flops;
        before = row.flops;
      }
      // All trials have about the same FLOPs: the multiplier is highest where
      // the loss is lowest.
      if (rows.back().loss <= least * kClose) {
        best.insert(rows.back().index);
      }
    }
    good_ = best.size();
    double cost = 0;
    bool found = false;
    player_.play(kind, seed, [&](const Step& step) {
      cost += from.at(step.row);
      return found = best.contains(step.row);
    });
    return found ? cost : INFINITY;
  }

  static constexpr double kClose = 1.002;

  testing::TemporaryFolder folder_;
  Player player_ = make_player(folder_);
  std::size_t good_ = 0;
};

TEST_F(ReplayTest, TheModelNeedsAFractionOfTheCompute) {
  EXPECT_GE(player_.trials().size(), 400U);
  constexpr std::uint64_t kSeeds = 12;
  const auto median = [&](const std::string& kind) {
    std::vector<double> costs;
    for (std::uint64_t seed = 0; seed < kSeeds; ++seed) {
      costs.push_back(cost_until_best(kind, seed));
    }
    std::sort(costs.begin(), costs.end());
    std::printf(
        "%s: median %.1f whole trials, worst %.1f\n",
        kind.c_str(),
        costs[kSeeds / 2],
        costs.back());
    return costs[kSeeds / 2];
  };
  const double model = median("model");
  EXPECT_LT(model, median("halving") / 2);
  EXPECT_LT(median("asha"), INFINITY);
  // The mean of random draws without replacement until the first of the best.
  const double random = static_cast<double>(player_.trials().size() + 1) /
                        static_cast<double>(good_ + 1);
  EXPECT_LT(model, random / 4);
}

}  // namespace
}  // namespace einforge::search::replay
