#include "einforge/report/thin.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "einforge/base/random.h"

namespace einforge::report {
namespace {

// The largest distance in y between the points and the line through those kept.
double worst_gap(
    const std::vector<double>& x,
    const std::vector<double>& y,
    const std::vector<std::size_t>& kept) {
  double worst = 0;
  for (std::size_t k = 0; k + 1 < kept.size(); ++k) {
    for (std::size_t i = kept[k]; i <= kept[k + 1]; ++i) {
      const double share = (x[i] - x[kept[k]]) / (x[kept[k + 1]] - x[kept[k]]);
      worst = std::max(
          worst, std::abs(y[i] - std::lerp(y[kept[k]], y[kept[k + 1]], share)));
    }
  }
  return worst;
}

TEST(Thin, KeepsFewPointsAsTheyAre) {
  EXPECT_EQ(thin({}, {}, 4).size(), 0u);
  const std::vector<double> one = {1};
  EXPECT_EQ(thin(one, one, 4), std::vector<std::size_t>{0});
  const std::vector<double> four = {1, 2, 3, 4};
  EXPECT_EQ(thin(four, four, 4), (std::vector<std::size_t>{0, 1, 2, 3}));
}

TEST(Thin, FollowsASmoothCurve) {
  std::vector<double> x;
  std::vector<double> y;
  for (int i = 0; i < 100'000; ++i) {
    x.push_back(10.0 * i / 100'000);
    y.push_back(std::exp(-x.back()));
  }
  const auto kept = thin(x, y, 200);
  EXPECT_LE(kept.size(), 200u);
  EXPECT_GT(kept.size(), 150u);
  EXPECT_TRUE(std::is_sorted(kept.begin(), kept.end()));
  EXPECT_EQ(kept.front(), 0u);
  EXPECT_EQ(kept.back(), x.size() - 1);
  // A chord over a share of 0.1 is 0.1^2 / 8 off where the curve bends most.
  EXPECT_LT(worst_gap(x, y, kept), 1.3e-3);
}

// What the eye takes from a noisy line: where it is and how wide.
TEST(Thin, KeepsTheWidthOfANoisyLineAllAlong) {
  base::Random random(3);
  std::vector<double> x;
  std::vector<double> y;
  for (int i = 0; i < 100'000; ++i) {
    x.push_back(i);
    y.push_back(random.normal());
  }
  const auto kept = thin(x, y, 102);
  for (std::size_t share = 0; share < 50; ++share) {
    double low = 0;
    double high = 0;
    for (const std::size_t i : kept) {
      if (i / 2000 == share) {
        low = std::min(low, y[i]);
        high = std::max(high, y[i]);
      }
    }
    EXPECT_LT(low, -2.5) << share;
    EXPECT_GT(high, 2.5) << share;
  }
}

TEST(Thin, KeepsASpikeOfOnePoint) {
  std::vector<double> x;
  std::vector<double> y;
  for (int i = 0; i < 10'000; ++i) {
    x.push_back(i);
    y.push_back(i % 7);
  }
  y[4321] = 50;
  y[8765] = -50;
  const auto kept = thin(x, y, 20);
  EXPECT_TRUE(std::binary_search(kept.begin(), kept.end(), 4321u));
  EXPECT_TRUE(std::binary_search(kept.begin(), kept.end(), 8765u));
}

TEST(Thin, CopesWithEqualPoints) {
  const std::vector<double> same(1000, 1.0);
  const auto kept = thin(same, same, 10);
  EXPECT_LE(kept.size(), 10u);
  EXPECT_GT(kept.size(), 4u);
  EXPECT_EQ(kept.back(), 999u);
}

}  // namespace
}  // namespace einforge::report
