// The parts of the analysis: curves, frontier, power law, multiplier.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "einforge/base/random.h"
#include "einforge/scaling/curve.h"
#include "einforge/scaling/frontier.h"
#include "einforge/scaling/multiplier.h"
#include "einforge/scaling/power_law.h"

namespace einforge::scaling {
namespace {

TEST(LogCurve, DropsUnusablePointsAndSorts) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double infinity = std::numeric_limits<double>::infinity();
  scaling::Run run;
  run.points = {
      {0, 5, 0, 0},
      {30, 2, 3, nan},
      {10, 4, 1, nan},
      {20, nan, 2, nan},
      {25, infinity, 2, nan},
      {30, 1, 3, nan},
      {40, -1, 4, nan}};
  const Curve curve = log_curve(run, Metric::kFlops);
  ASSERT_EQ(curve.x.size(), 2u);
  EXPECT_EQ(curve.x[0], std::log(10));
  EXPECT_EQ(curve.y[1], std::log(1));  // the later of two at 30
  EXPECT_TRUE(log_curve(run, Metric::kTokens).x.empty());
}

TEST(Smooth, KeepsQuadraticsAndTakesOutNoise) {
  base::Random random(3);
  Curve exact;
  Curve noisy;
  for (int i = 0; i < 60; ++i) {
    const double x = 0.1 * i + 0.01 * random.uniform();
    const double y = 2 - 0.3 * x + 0.01 * x * x;
    exact.x.push_back(x);
    exact.y.push_back(y);
    noisy.x.push_back(x);
    noisy.y.push_back(y + 0.01 * random.normal());
  }
  const Curve same = smooth(exact);
  const Curve smoothed = smooth(noisy);
  double before = 0;
  double after = 0;
  for (std::size_t i = 0; i < exact.y.size(); ++i) {
    EXPECT_NEAR(same.y[i], exact.y[i], 1e-9);
    before += std::pow(noisy.y[i] - exact.y[i], 2);
    after += std::pow(smoothed.y[i] - exact.y[i], 2);
  }
  EXPECT_LT(after, before / 4);
  // Its own idea of how far off it is.
  const double error = std::sqrt(after / 60);
  double expected = 0;
  for (const double value : smoothed.error) {
    expected += value * value / 60;
  }
  EXPECT_GT(std::sqrt(expected), error / 2);
  EXPECT_LT(std::sqrt(expected), error * 2);
}

TEST(Smooth, LeavesShortCurvesAlone) {
  const Curve curve{{1, 2, 3}, {3, 1, 2}};
  EXPECT_EQ(smooth(curve).y, curve.y);
}

std::vector<Curve> random_curves(base::Random& random) {
  std::vector<Curve> curves(1 + random.below(5));
  for (Curve& curve : curves) {
    const auto points = 1 + random.below(20);
    double x = random.uniform();
    for (std::uint64_t i = 0; i < points; ++i) {
      // Equal x in different curves must not confuse it.
      x += 0.25 * static_cast<double>(1 + random.below(3));
      curve.x.push_back(x);
      curve.y.push_back(random.uniform());
    }
  }
  return curves;
}

// Against the definition: a point is on the lower hull's falling part when no
// mix of two others lies at or under it, and none to its left is as low.
TEST(Frontier, MatchesBruteForceOnRandomCurves) {
  base::Random random(1);
  for (int repeat = 0; repeat < 200; ++repeat) {
    const auto curves = random_curves(random);
    std::vector<std::pair<double, double>> points;
    for (const Curve& curve : curves) {
      for (std::size_t i = 0; i < curve.x.size(); ++i) {
        points.emplace_back(curve.x[i], curve.y[i]);
      }
    }
    std::vector<std::pair<double, double>> expected;
    for (const auto& p : points) {
      bool on = true;
      for (const auto& a : points) {
        on &= !(a != p && a.first <= p.first && a.second <= p.second);
        for (const auto& b : points) {
          if (a.first < p.first && p.first < b.first) {
            const double t = (p.first - a.first) / (b.first - a.first);
            on &= p.second < std::lerp(a.second, b.second, t) - 1e-12;
          }
        }
      }
      if (on) {
        expected.push_back(p);
      }
    }
    std::sort(expected.begin(), expected.end());
    const Frontier hull = frontier(curves);
    ASSERT_EQ(hull.vertices.size(), expected.size());
    for (std::size_t i = 0; i < expected.size(); ++i) {
      EXPECT_EQ(hull.vertices[i].x, expected[i].first);
      EXPECT_EQ(hull.vertices[i].y, expected[i].second);
    }
  }
}

TEST(Frontier, FindsWhereRunsHandOver) {
  // Two straight falls, then flat; the second starts later and ends lower.
  const std::vector<Curve> curves = {
      {{0, 1, 2, 3}, {4, 2, 1.5, 1.4}}, {{1, 2, 3, 4}, {4, 3, 1, 0.6}}};
  const Frontier hull = frontier(curves);
  EXPECT_EQ(hull.run_count(), 2u);
  EXPECT_EQ(hull.vertices[hull.first_touch].x, 1);
  EXPECT_EQ(hull.vertices[hull.last_touch].x, 3);
  EXPECT_DOUBLE_EQ(x_at(hull, 1.5), 2);
  EXPECT_DOUBLE_EQ(x_at(hull, 4), 0);
  EXPECT_DOUBLE_EQ(x_at(hull, 0.6), 4);
}

Sample law_sample(const PowerLaw& law, int points) {
  Sample sample;
  for (int i = 0; i < points; ++i) {
    sample.x.push_back(20 + 0.5 * i);
    sample.y.push_back(law.log_loss(sample.x.back()));
    sample.weights.push_back(1);
  }
  return sample;
}

TEST(PowerLaw, RecoversExactLaws) {
  for (const double floor : {0.0, 0.1, 1.7, 2.5}) {
    for (const double exponent : {0.05, 0.15, 0.5, 1.5}) {
      const PowerLaw truth{floor, std::log(2.0) + exponent * 24, exponent};
      const Sample sample = law_sample(truth, 20);
      const PowerLaw law = fit_power_laws({&sample, 1})[0];
      EXPECT_NEAR(law.exponent, exponent, 1e-3 * exponent) << floor;
      EXPECT_NEAR(law.floor, floor, 2e-3) << exponent;
      for (const double x : sample.x) {
        EXPECT_NEAR(law.log_loss(x), truth.log_loss(x), 1e-5);
      }
    }
  }
}

TEST(PowerLaw, SharedFloorIsFoundFromBoth) {
  const std::vector<Sample> samples = {
      law_sample({1.7, 0.2 * 24, 0.2}, 4), law_sample({1.7, 0.1 * 20, 0.1}, 4)};
  const auto laws = fit_power_laws(samples);
  EXPECT_EQ(laws[0].floor, laws[1].floor);
  EXPECT_NEAR(laws[0].floor, 1.7, 1e-3);
  EXPECT_NEAR(laws[0].exponent, 0.2, 1e-3);
  EXPECT_NEAR(laws[1].exponent, 0.1, 1e-3);
}

TEST(PowerLaw, OneWildPointMovesLittle) {
  const PowerLaw truth{1.7, 0.2 * 24, 0.2};
  Sample sample = law_sample(truth, 20);
  base::Random random(2);
  for (double& y : sample.y) {
    y += 1e-3 * random.normal();
  }
  const PowerLaw clean = fit_power_laws({&sample, 1})[0];
  sample.y[10] += 0.5;
  const PowerLaw robust = fit_power_laws({&sample, 1})[0];
  EXPECT_NEAR(robust.exponent, clean.exponent, 0.01);
  EXPECT_NEAR(robust.floor, clean.floor, 0.02);
}

TEST(PowerLaw, WithoutFloor) {
  const Sample sample = law_sample({0, 0.2 * 24, 0.2}, 10);
  FitOptions options;
  options.with_floor = false;
  EXPECT_NEAR(fit_power_laws({&sample, 1}, options)[0].exponent, 0.2, 1e-6);
}

TEST(PowerLaw, DegenerateSamplesGiveFiniteLaws) {
  const Sample flat{{1, 2, 3}, {1, 1, 1}, {1, 1, 1}};
  const Sample rising{{1, 2, 3}, {1, 2, 3}, {1, 1, 1}};
  const Sample single{{1}, {1}, {1}};
  const Sample same_x{{1, 1}, {1, 2}, {1, 1}};
  for (const Sample& sample : {flat, rising, single, same_x}) {
    const PowerLaw law = fit_power_laws({&sample, 1})[0];
    EXPECT_TRUE(std::isfinite(law.floor));
    EXPECT_TRUE(std::isfinite(law.exponent));
    EXPECT_TRUE(std::isfinite(law.log_scale));
  }
}

std::optional<Multiplier> multiplier_of(const Frontier& a, const Frontier& b) {
  return compute_multiplier(a, check_frontier(a, 2), b, check_frontier(b, 2));
}

TEST(Multiplier, IsExactForShiftedFrontiers) {
  const std::vector<Curve> dense = {
      {{0, 1, 2, 3}, {4, 2, 1.5, 1.4}}, {{1, 2, 3, 4}, {4, 3, 1, 0.6}}};
  std::vector<Curve> better = dense;
  for (Curve& curve : better) {
    for (double& x : curve.x) {
      x -= std::log(2.5);
    }
  }
  const Frontier a = frontier(dense);
  const Frontier b = frontier(better);
  const auto multiplier = multiplier_of(a, b);
  ASSERT_TRUE(multiplier);
  EXPECT_NEAR(std::exp(multiplier->log_value), 2.5, 1e-12);
  EXPECT_EQ(multiplier->to, 0.6);
  EXPECT_FALSE(multiplier->early);
  EXPECT_EQ(multiplier->from, 2);  // where the first run hands over
  EXPECT_NEAR(multiplier_of(b, a)->log_value, -multiplier->log_value, 1e-12);
}

TEST(Multiplier, AWeakStructureIsComparedWhereItGot) {
  const std::vector<Curve> dense = {
      {{0, 1, 2, 3}, {4, 2, 1.5, 1.4}}, {{1, 2, 3, 4}, {4, 3, 1, 0.6}}};
  const std::vector<Curve> weak = {{{1, 2, 3}, {4, 3, 2.5}}};
  const auto multiplier = multiplier_of(frontier(dense), frontier(weak));
  ASSERT_TRUE(multiplier);
  EXPECT_LT(multiplier->log_value, 0);
  EXPECT_EQ(multiplier->to, 2.5);
  EXPECT_GT(multiplier->from, 2.5);
  EXPECT_TRUE(multiplier->early);
}

TEST(Multiplier, NeedsALossInCommon) {
  const std::vector<Curve> low = {{{0, 1}, {1, 0.5}}};
  const std::vector<Curve> high = {{{0, 1}, {3, 2}}};
  EXPECT_FALSE(multiplier_of(frontier(low), frontier(high)));
  EXPECT_FALSE(multiplier_of(frontier(high), frontier(low)));
  EXPECT_FALSE(multiplier_of(Frontier{}, frontier(low)));
}

}  // namespace
}  // namespace einforge::scaling
