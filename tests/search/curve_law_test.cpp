#include "einforge/search/curve_law.h"

#include <gtest/gtest.h>

#include <cmath>

#include "einforge/base/random.h"

namespace einforge::search {
namespace {

// L = 1.5 + 2 (w / 64)^-0.6 exp(0.5 omega + 0.4 (1 - psi)) + ...
double truth(const LossPoint& point) {
  const double excess = 0.5 * std::pow(point.width / 64, -0.6) +
                        0.9 * std::pow(point.tokens / 1e5, -0.4);
  return 1.5 +
         excess *
             std::exp(0.5 * std::max(point.omega, 0.0) + 0.4 * (1 - point.psi));
}

TEST(CurveLaw, PredictsWiderAndLongerRuns) {
  base::Random random(2);
  std::vector<LossPoint> points;
  for (const double width : {32.0, 64.0, 128.0}) {
    for (const double tokens : {5e4, 1.5e5, 4.5e5}) {
      for (const auto& [omega, psi] :
           {std::pair(0.0, 1.0), std::pair(0.5, 1.0), std::pair(0.0, 0.5)}) {
        LossPoint point{width, tokens, omega, psi, 0};
        point.loss = truth(point) * std::exp(0.003 * random.normal());
        points.push_back(point);
        // A wrong learning rate.
        if (random.below(5) == 0) {
          point.loss *= 1.3;
          points.push_back(point);
        }
      }
    }
  }
  const CurveLaw law(points);
  EXPECT_GT(law.floor(), 0);
  for (LossPoint point : points) {
    EXPECT_NEAR(law.loss(point) / truth(point), 1, 0.03);
    point.width *= 2;
    point.tokens *= 3;
    EXPECT_NEAR(law.loss(point) / truth(point), 1, 0.06);
  }
}

TEST(CurveLaw, FallsWithWidthAndTokensEvenFromOnePoint) {
  const CurveLaw law({{64, 1e5, 0, 1, 3.0}});
  EXPECT_NEAR(law.loss({64, 1e5, 0, 1, 0}), 3, 0.1);
  EXPECT_LT(law.loss({128, 1e5, 0, 1, 0}), law.loss({64, 1e5, 0, 1, 0}));
  EXPECT_LT(law.loss({64, 2e5, 0, 1, 0}), law.loss({64, 1e5, 0, 1, 0}));
  EXPECT_GT(law.loss({64, 1e9, 0, 1, 0}), 0);
}

}  // namespace
}  // namespace einforge::search
