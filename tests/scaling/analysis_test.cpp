#include "einforge/scaling/analysis.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "tests/scaling/synthetic.h"

namespace einforge::scaling {
namespace {

using testing::World;

const StructureAnalysis& find(
    const Analysis& analysis, const std::string& structure) {
  return *std::find_if(
      analysis.structures.begin(),
      analysis.structures.end(),
      [&](const auto& s) { return s.structure == structure; });
}

std::vector<scaling::Run> both(
    const World& a, const World& b, base::Random& random) {
  std::vector<scaling::Run> runs = a.runs(random);
  for (scaling::Run& run : b.runs(random)) {
    runs.push_back(std::move(run));
  }
  return runs;
}

World better_than(const World& dense, double advantage) {
  World world = dense;
  world.structure = "btt";
  world.advantage = advantage;
  world.smallest *= 1.5;  // its sizes fall elsewhere
  return world;
}

bool covers(const std::optional<Interval>& interval, double truth) {
  return interval && interval->low <= truth && truth <= interval->high;
}

// Without noise the published laws come back: their runs are known in closed
// form, and so is the compute-optimal law a = alpha beta / (alpha + beta).
struct PublishedLaw {
  const char* name;
  double floor, a, alpha, b, beta;
};

class NoiseFree : public ::testing::TestWithParam<PublishedLaw> {};

TEST_P(NoiseFree, RunsGiveBackTheOptimalLaw) {
  const PublishedLaw& law = GetParam();
  World world;
  world.floor = law.floor;
  world.a = law.a;
  world.alpha = law.alpha;
  world.b = law.b;
  world.beta = law.beta;
  world.smallest = 7e7;  // Chinchilla's range, 70M to 16B parameters
  world.ratio = 2;
  world.sizes = 9;
  world.tokens = 5e12;
  world.points = 200;
  world.run_noise = world.point_noise = 0;
  base::Random random(1);
  AnalysisOptions options;
  options.bootstrap = 0;
  const Analysis analysis = analyse(world.runs(random), options);
  ASSERT_TRUE(analysis.structures[0].law);
  EXPECT_NEAR(analysis.structures[0].law->exponent, world.exponent(), 0.002);
  EXPECT_NEAR(analysis.structures[0].law->floor, law.floor, 0.01);
  const double compute = 1e22;
  EXPECT_NEAR(
      analysis.structures[0].law->log_loss(std::log(compute)),
      std::log(world.optimal_loss(compute)),
      1e-3);
}

INSTANTIATE_TEST_SUITE_P(
    ,
    NoiseFree,
    ::testing::Values(
        // arXiv 2203.15556, equation 10.
        PublishedLaw{"hoffmann", 1.69, 406.4, 0.34, 410.7, 0.28},
        // arXiv 2404.10102, the corrected fit.
        PublishedLaw{"besiroglu", 1.8172, 482.01, 0.3478, 2085.43, 0.3658}),
    [](const auto& item) { return item.param.name; });

// Published runs: the paper fits loss = (compute / 5.984e22)^-0.0737 + 0.5066
// to the same seven models (arXiv 2304.03208).
TEST(Published, CerebrasGptAgreesWithItsPaper) {
  const char* root = std::getenv("EINFORGE_SOURCE_DIR");
  const auto runs = read_csv(
      std::filesystem::path(root == nullptr ? "." : root) /
      "examples/scaling/cerebras_gpt.csv");
  const Analysis analysis = analyse(runs);
  const StructureAnalysis& dense = analysis.structures[0];
  ASSERT_TRUE(dense.law);
  EXPECT_EQ(dense.law_runs, 7u);
  EXPECT_TRUE(covers(dense.exponent_ci95, 0.0737));
  EXPECT_TRUE(covers(dense.floor_ci95, 0.5066));
  const PowerLaw paper{0.5066, 0.0737 * std::log(5.984e22), 0.0737};
  for (const FrontierPoint& point : dense.frontier) {
    EXPECT_NEAR(
        dense.law->log_loss(std::log(point.compute)),
        paper.log_loss(std::log(point.compute)),
        0.025);
  }
}

TEST(Analysis, RanksAndExplains) {
  World dense;
  dense.tokens = 2e9;
  base::Random random(4);
  std::vector<scaling::Run> runs = both(dense, better_than(dense, 3), random);
  World hopeless = dense;
  hopeless.structure = "hopeless";
  hopeless.floor = 60;  // never reaches a loss that dense has
  hopeless.sizes = 1;
  for (scaling::Run& run : hopeless.runs(random)) {
    runs.push_back(std::move(run));
  }
  const Analysis analysis = analyse(runs);
  ASSERT_EQ(analysis.structures.size(), 3u);
  EXPECT_EQ(analysis.structures[0].structure, "btt");
  EXPECT_NEAR(*analysis.structures[0].multiplier, 3, 1);
  EXPECT_EQ(analysis.structures[1].structure, "dense");
  EXPECT_EQ(*analysis.structures[1].multiplier, 1);
  EXPECT_EQ(analysis.structures[2].structure, "hopeless");
  EXPECT_FALSE(analysis.structures[2].multiplier);
  EXPECT_NE(analysis.structures[2].multiplier_note, "");
  EXPECT_FALSE(analysis.structures[2].law);
  EXPECT_NE(analysis.structures[2].law_note, "");
}

// Runs that end on the steep part of their curve show no law: whichever a round
// of the fit tries, others of them touch it. What it leaves over is no noise.
TEST(Analysis, RunsThatEndEarlyHaveNoLawAndNoNoise) {
  base::Random random(6);
  World dense;
  dense.tokens = 2e9;
  std::vector<scaling::Run> mixed = dense.runs(random);
  std::vector<scaling::Run> early;
  for (int s = 0; s < 6; ++s) {
    World world = dense;
    world.structure = s == 0 ? "dense" : "early" + std::to_string(s);
    world.sizes = 3;
    world.ratio = 4;
    world.smallest *= 1 + s;
    world.tokens = 1e6;
    for (scaling::Run& run : world.runs(random)) {
      if (s > 0) {
        mixed.push_back(run);
      }
      early.push_back(std::move(run));
    }
  }
  AnalysisOptions options;
  options.bootstrap = 50;
  const Analysis alone = analyse(early, options);
  EXPECT_FALSE(alone.noise);
  EXPECT_EQ(alone.degrees_of_freedom, 0);
  for (const StructureAnalysis& structure : alone.structures) {
    EXPECT_FALSE(structure.law) << structure.structure;
    EXPECT_EQ(structure.law_note, "no law: its runs end before they show one");
  }
  // Beside runs that show theirs, they do not change what noise is.
  const Analysis analysis = analyse(mixed, options);
  ASSERT_TRUE(analysis.noise);
  EXPECT_LT(*analysis.noise, 3 * dense.run_noise);
}

TEST(Analysis, IsTheSameForTheSameSeed) {
  World dense;
  base::Random random(4);
  const auto runs = both(dense, better_than(dense, 3), random);
  AnalysisOptions options;
  options.bootstrap = 50;
  const Analysis a = analyse(runs, options);
  const Analysis b = analyse(runs, options);
  options.seed = 1;
  const Analysis c = analyse(runs, options);
  EXPECT_EQ(
      a.structures[0].multiplier_ci95->low,
      b.structures[0].multiplier_ci95->low);
  EXPECT_NE(
      a.structures[0].multiplier_ci95->low,
      c.structures[0].multiplier_ci95->low);
}

// Six structures at three sizes, as the demo has: enough for multipliers.
TEST(Analysis, ThreeSizesAPieceShareAFloor) {
  World dense;
  dense.sizes = 3;
  dense.ratio = 4;
  base::Random random(9);
  std::vector<scaling::Run> runs = dense.runs(random);
  for (int i = 1; i < 6; ++i) {
    World other = dense;
    other.structure = "other" + std::to_string(i);
    other.advantage = 0.5 * i;
    for (scaling::Run& run : other.runs(random)) {
      runs.push_back(std::move(run));
    }
  }
  const Analysis analysis = analyse(runs);
  EXPECT_TRUE(analysis.shared_floor);
  EXPECT_EQ(analysis.interval_method, "run noise");
  for (const StructureAnalysis& structure : analysis.structures) {
    EXPECT_TRUE(structure.multiplier) << structure.structure;
    EXPECT_TRUE(structure.multiplier_ci95) << structure.structure;
  }
}

TEST(Analysis, FewRunsAreResampled) {
  World dense;
  dense.sizes = 3;
  base::Random random(9);
  const Analysis analysis = analyse(both(dense, better_than(dense, 2), random));
  EXPECT_EQ(analysis.interval_method, "resampled runs");
  EXPECT_FALSE(analysis.noise);
  EXPECT_TRUE(covers(find(analysis, "btt").multiplier_ci95, 2));
}

TEST(Analysis, OneRunEachGivesAMultiplierWithoutInterval) {
  World dense;
  dense.sizes = 1;
  base::Random random(9);
  const Analysis analysis = analyse(both(dense, better_than(dense, 2), random));
  const StructureAnalysis& btt = find(analysis, "btt");
  EXPECT_TRUE(btt.multiplier);
  EXPECT_FALSE(btt.multiplier_ci95);
  EXPECT_NE(btt.multiplier_note, "");
}

TEST(Analysis, WithoutBaselineOrPointsItSaysSo) {
  World dense;
  base::Random random(9);
  AnalysisOptions options;
  options.baseline = "none";
  options.bootstrap = 10;
  const Analysis analysis = analyse(dense.runs(random), options);
  EXPECT_FALSE(analysis.structures[0].multiplier);
  EXPECT_NE(analysis.structures[0].multiplier_note, "");
  EXPECT_TRUE(analyse({}).structures.empty());
  std::vector<scaling::Run> empty(2);
  EXPECT_TRUE(analyse(empty).structures.empty());
}

TEST(Analysis, WorksInSecondsToo) {
  World dense;
  dense.run_noise = 0.001;
  base::Random random(9);
  AnalysisOptions options;
  options.metric = Metric::kSeconds;
  const Analysis analysis =
      analyse(both(dense, better_than(dense, 2), random), options);
  // Seconds do not have the advantage that FLOPs have.
  EXPECT_NEAR(*find(analysis, "btt").multiplier, 1, 0.5);
}

}  // namespace
}  // namespace einforge::scaling
