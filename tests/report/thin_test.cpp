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
  EXPECT_EQ(thin({}, {}, 2).size(), 0u);
  const std::vector<double> one = {1};
  EXPECT_EQ(thin(one, one, 2), std::vector<std::size_t>{0});
  const std::vector<double> three = {1, 2, 3};
  EXPECT_EQ(thin(three, three, 3), (std::vector<std::size_t>{0, 1, 2}));
}

TEST(Thin, FollowsASmoothCurveWithFewPoints) {
  std::vector<double> x;
  std::vector<double> y;
  for (int i = 0; i < 100'000; ++i) {
    x.push_back(10.0 * i / 100'000);
    y.push_back(std::exp(-x.back()));
  }
  const auto kept = thin(x, y, 100);
  EXPECT_EQ(kept.size(), 100u);
  EXPECT_TRUE(std::is_sorted(kept.begin(), kept.end()));
  EXPECT_EQ(kept.front(), 0u);
  EXPECT_EQ(kept.back(), x.size() - 1);
  // Evenly spread points would be 0.0013 off.
  EXPECT_LT(worst_gap(x, y, kept), 5e-4);
}

TEST(Thin, KeepsASpikeOfOnePoint) {
  base::Random random(3);
  std::vector<double> x;
  std::vector<double> y;
  for (int i = 0; i < 10'000; ++i) {
    x.push_back(i);
    y.push_back(0.01 * random.normal());
  }
  y[4321] = 5;
  const auto kept = thin(x, y, 20);
  EXPECT_TRUE(std::binary_search(kept.begin(), kept.end(), 4321u));
}

TEST(Thin, CopesWithEqualPoints) {
  const std::vector<double> same(1000, 1.0);
  EXPECT_EQ(thin(same, same, 10).size(), 10u);
}

}  // namespace
}  // namespace einforge::report
