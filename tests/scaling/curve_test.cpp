// Curves are smoothed where there is nothing but noise, and nowhere else.

#include "einforge/scaling/curve.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "einforge/base/random.h"

namespace einforge::scaling {
namespace {

// A training curve, evenly in compute.
Curve training_curve(int points, double noise, base::Random& random) {
  Curve curve;
  for (int i = 1; i <= points; ++i) {
    const double compute = static_cast<double>(i) / points;
    curve.x.push_back(std::log(compute));
    curve.y.push_back(
        std::log(2 + 0.5 * std::pow(compute, -0.4)) + noise * random.normal());
  }
  return curve;
}

double lowest(const Curve& curve) {
  return *std::min_element(curve.y.begin(), curve.y.end());
}

struct Disturbance {
  const char* name;
  void (*apply)(Curve& curve, std::size_t at, std::size_t width, double size);
};

void spike(Curve& c, std::size_t at, std::size_t width, double size) {
  for (std::size_t i = at; i < std::min(at + width, c.size()); ++i) {
    c.y[i] += size;
  }
}

void decaying_spike(Curve& c, std::size_t at, std::size_t width, double size) {
  for (std::size_t i = at; i < std::min(at + width, c.size()); ++i) {
    c.y[i] +=
        size * static_cast<double>(at + width - i) / static_cast<double>(width);
  }
}

void jump_that_stays(Curve& c, std::size_t at, std::size_t, double size) {
  for (std::size_t i = at; i < c.size(); ++i) {
    c.y[i] += size;
  }
}

void restart(Curve& c, std::size_t at, std::size_t, double) {
  const std::vector<double> before = c.y;
  for (std::size_t i = at; i < c.size(); ++i) {
    c.y[i] = before[i - at];
  }
}

void cool_down(Curve& c, std::size_t at, std::size_t, double size) {
  for (std::size_t i = at; i < c.size(); ++i) {
    c.y[i] -= 0.2 * size * (c.x[i] - c.x[at]);
  }
}

class Disturbed : public ::testing::TestWithParam<Disturbance> {};

// Whatever happens to a run without noise: each value is the measured one, to
// a part in a thousand of the loss.
TEST_P(Disturbed, IsLeftAsMeasured) {
  base::Random random(7);
  for (int trial = 0; trial < 300; ++trial) {
    const int points = 2 + static_cast<int>(random.below(60));
    Curve curve = training_curve(points, 0, random);
    const std::size_t at = random.below(curve.size());
    const std::size_t width = 1 + random.below(1 + curve.size() / 5);
    const double size = std::log(1.02 + 4 * random.uniform());
    GetParam().apply(curve, at, width, size);
    const Curve smoothed = smooth(curve);
    for (std::size_t i = 0; i < curve.size(); ++i) {
      ASSERT_NEAR(smoothed.y[i], curve.y[i], 1e-3)
          << "point " << i << " of " << points << ", at " << at << ", width "
          << width << ", size " << size;
    }
  }
}

// With noise: nothing is below what was measured nearby, nor far from it.
TEST_P(Disturbed, IsNeverFarBelowWhatWasMeasured) {
  constexpr double kNoise = 0.003;
  base::Random random(8);
  for (int trial = 0; trial < 300; ++trial) {
    const int points = 30 + static_cast<int>(random.below(30));
    Curve curve = training_curve(points, kNoise, random);
    const std::size_t at = random.below(curve.size());
    const std::size_t width = 1 + random.below(1 + curve.size() / 10);
    GetParam().apply(curve, at, width, std::log(1.1 + 4 * random.uniform()));
    const Curve smoothed = smooth(curve);
    EXPECT_GE(lowest(smoothed), lowest(curve));
    for (std::size_t i = 0; i < curve.size(); ++i) {
      ASSERT_GE(smoothed.y[i], curve.y[i] - 8 * kNoise) << "point " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    ,
    Disturbed,
    ::testing::Values(
        Disturbance{"spike", spike},
        Disturbance{"decayingSpike", decaying_spike},
        Disturbance{"jumpThatStays", jump_that_stays},
        Disturbance{"restart", restart},
        Disturbance{"coolDown", cool_down}),
    [](const auto& item) { return item.param.name; });

TEST(Smooth, ASingleEvaluationTooLowIsNone) {
  base::Random random(3);
  Curve curve = training_curve(30, 0.001, random);
  const double expected = curve.y[12];
  curve.y[12] -= 0.1;
  EXPECT_NEAR(smooth(curve).y[12], expected, 0.01);
  // At its end nothing says that the loss would have gone back.
  Curve end = training_curve(30, 0.001, random);
  end.y[29] -= 0.1;
  EXPECT_EQ(without_dips(end).y[29], end.y[29]);
  // Two in a row are no single evaluation, and a run may end above its lowest.
  Curve valley = training_curve(30, 0, random);
  for (std::size_t i = 0; i < valley.size(); ++i) {
    valley.y[i] = std::pow(valley.x[i] + 1, 2);
  }
  EXPECT_EQ(without_dips(valley).y, valley.y);
}

TEST(EvaluationNoise, IsThatOfEvaluations) {
  base::Random random(5);
  for (const double noise : {0.0, 0.001, 0.01}) {
    double sum = 0;
    double with_spike = 0;
    for (int i = 0; i < 100; ++i) {
      Curve curve = training_curve(40, noise, random);
      sum += evaluation_noise(curve) / 100;
      spike(curve, 20, 4, 1);
      with_spike += evaluation_noise(curve) / 100;
    }
    EXPECT_NEAR(sum, noise, 0.2 * noise + 1e-5);
    EXPECT_LT(with_spike, 1.5 * noise + 1e-5);
  }
}

TEST(Thin, KeepsEndsAndLowest) {
  base::Random random(6);
  const Curve curve = training_curve(5000, 0.01, random);
  const Curve thinned = thin(curve, 100);
  EXPECT_LE(thinned.size(), 100u);
  EXPECT_GE(thinned.size(), 30u);
  EXPECT_EQ(thinned.x.front(), curve.x.front());
  EXPECT_EQ(thinned.x.back(), curve.x.back());
  EXPECT_EQ(lowest(thinned), lowest(curve));
  EXPECT_TRUE(std::is_sorted(thinned.x.begin(), thinned.x.end()));
}

TEST(EndSlope, IsThatOfTheLastThirdOfCompute) {
  Curve curve;
  for (int i = 1; i <= 60; ++i) {
    curve.x.push_back(std::log(i));
    // Steep first, then flat.
    curve.y.push_back(
        -0.5 * std::min(curve.x.back(), std::log(40)) -
        0.1 * std::max(0.0, curve.x.back() - std::log(40)));
  }
  EXPECT_NEAR(end_slope(curve), -0.1, 1e-9);
  EXPECT_LT(slope_from(curve, curve.x[5]), -0.2);
  spike(curve, 55, 2, 1);  // changes the median of slopes little
  EXPECT_NEAR(end_slope(curve), -0.1, 0.3);
  EXPECT_TRUE(std::isnan(end_slope({{1, 2}, {2, 1}, {}})));
  EXPECT_TRUE(std::isnan(end_slope({})));
}

}  // namespace
}  // namespace einforge::scaling
