// Laws of runs that were measured once or a few times.

#include "einforge/scaling/envelope.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "einforge/scaling/analysis.h"
#include "tests/scaling/synthetic.h"

namespace einforge::scaling {
namespace {

using testing::World;

World world_with(double floor, double a, double alpha, double b, double beta) {
  World world;
  world.floor = floor;
  world.a = a;
  world.alpha = alpha;
  world.b = b;
  world.beta = beta;
  world.run_noise = world.point_noise = 0;
  return world;
}

double law_at(const StructureAnalysis& structure, double compute) {
  return std::exp(structure.law->log_loss(std::log(compute)));
}

// An IsoFLOP table without noise: sizes around the best one of each budget.
std::vector<scaling::Run> iso_flop(
    const World& world, int sizes, double ratio) {
  std::vector<scaling::Run> runs;
  for (double compute = 1e18; compute < 1e22; compute *= 4) {
    for (int k = 0; k < sizes; ++k) {
      const double n =
          world.best_size(compute) * std::pow(ratio, k - 0.5 * (sizes - 1));
      const double d = compute / (6 * n);
      scaling::Run run;
      run.structure = "dense";
      run.name = std::to_string(runs.size());
      run.points = {
          {compute,
           world.floor + world.a * std::pow(n, -world.alpha) +
               world.b * std::pow(d, -world.beta),
           0,
           0}};
      runs.push_back(run);
    }
  }
  return runs;
}

class IsoFlop : public ::testing::TestWithParam<double> {};  // ratio of sizes

TEST_P(IsoFlop, TablesGiveBackTheLawAndNoRunLiesBelow) {
  for (const World& world :
       {world_with(1.69, 406.4, 0.34, 410.7, 0.28),
        world_with(2.2, 120, 0.25, 900, 0.3)}) {
    const auto runs = iso_flop(world, 7, GetParam());
    AnalysisOptions options;
    options.bootstrap = 0;
    const Analysis analysis = analyse(runs, options);
    const StructureAnalysis& dense = analysis.structures[0];
    ASSERT_TRUE(dense.law);
    EXPECT_NEAR(dense.law->exponent, world.exponent(), 1e-3);
    EXPECT_NEAR(dense.law->floor, world.floor, 0.005);
    for (const scaling::Run& run : runs) {
      const auto& point = run.points[0];
      // A part in two thousand, where the table's own step is a hundredth.
      EXPECT_NEAR(
          law_at(dense, point.compute) / world.optimal_loss(point.compute),
          1,
          5e-4);
      EXPECT_LT(law_at(dense, point.compute), 1.0005 * point.loss);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(, IsoFlop, ::testing::Values(1.3, 1.7, 2.5, 4.0));

// A few published evaluations of each size, all at different computes: the same
// law whether they are called runs of one evaluation or curves.
TEST(Envelope, PointsAndCurvesGiveOneLaw) {
  const World world = world_with(1.8, 450, 0.34, 1500, 0.36);
  base::Random random(12);
  std::vector<scaling::Run> curves;
  std::vector<scaling::Run> points;
  for (int k = 0; k < 30; ++k) {
    const double n = 5e7 * std::pow(1.2, k);
    scaling::Run curve;
    curve.structure = "dense";
    curve.name = std::to_string(k);
    const auto count = 3 + random.below(5);
    for (std::uint64_t i = 0; i < count; ++i) {
      // Near the size's best tokens, a factor of e^1.5 either way.
      const double d = 20 * n * std::exp(3 * random.uniform() - 1.5);
      const double loss = (world.floor + world.a * std::pow(n, -world.alpha) +
                           world.b * std::pow(d, -world.beta)) *
                          std::exp(0.003 * random.normal());
      curve.points.push_back({6 * n * d, loss, 0, 0});
      scaling::Run point = curve;
      point.name = fmt::format("{}.{}", k, i);
      point.points = {curve.points.back()};
      points.push_back(point);
    }
    curves.push_back(curve);
  }
  for (const auto* runs : {&curves, &points}) {
    const Analysis analysis = analyse(*runs);
    const StructureAnalysis& dense = analysis.structures[0];
    ASSERT_TRUE(dense.law);
    ASSERT_TRUE(dense.exponent_ci95);
    EXPECT_NEAR(dense.law->exponent, world.exponent(), 0.02);
    EXPECT_NEAR(dense.law->floor, world.floor, 0.1);
    EXPECT_LT(dense.exponent_ci95->low, world.exponent());
    EXPECT_GT(dense.exponent_ci95->high, world.exponent());
    EXPECT_LT(dense.exponent_ci95->high / dense.exponent_ci95->low, 1.6);
    EXPECT_NEAR(law_at(dense, 1e20), world.optimal_loss(1e20), 0.02);
  }
}

TEST(Envelope, OneOutlierMovesLittle) {
  World world;
  world.budgets = 6;
  world.sizes = 7;
  world.ratio = 2;
  world.run_noise = 0.002;
  base::Random random(4);
  auto runs = world.runs(random);
  const auto law_of = [](const std::vector<scaling::Run>& some) {
    AnalysisOptions options;
    options.bootstrap = 0;
    return *analyse(some, options).structures[0].law;
  };
  const PowerLaw before = law_of(runs);
  runs[20].points[0].loss *= 0.93;
  const PowerLaw low = law_of(runs);
  runs[20].points[0].loss *= 1.5;
  const PowerLaw high = law_of(runs);
  const double x = std::log(1e13);
  // Of 7% and 40%. One that is too low could be true, and moves more.
  EXPECT_NEAR(low.log_loss(x), before.log_loss(x), 0.02);
  EXPECT_NEAR(high.log_loss(x), before.log_loss(x), 0.004);
}

TEST(Envelope, TooLittleIsNoLaw) {
  base::Random random(4);
  World world;
  world.points = 2;
  world.sizes = 8;
  AnalysisOptions options;
  const Analysis two = analyse(world.runs(random), options);
  EXPECT_FALSE(two.structures[0].law);
  EXPECT_NE(two.structures[0].law_note, "");
  world.points = 5;
  world.sizes = 3;
  const Analysis three = analyse(world.runs(random), options);
  EXPECT_FALSE(three.structures[0].law);
}

}  // namespace
}  // namespace einforge::scaling
