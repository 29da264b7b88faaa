// What may stand on top of a report, and what may not.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <ctime>

#include "einforge/scaling/analysis.h"
#include "einforge/scaling/frontier.h"
#include "einforge/scaling/intervals.h"
#include "tests/scaling/synthetic.h"

namespace einforge::scaling {
namespace {

using testing::World;

constexpr double kAdvantage = 3;

const StructureAnalysis& find(
    const Analysis& analysis, const std::string& structure) {
  return *std::find_if(
      analysis.structures.begin(),
      analysis.structures.end(),
      [&](const auto& s) { return s.structure == structure; });
}

// Three sizes of dense, and of btt, which needs a third of the compute.
std::vector<scaling::Run> experiment(
    double tokens, int points, std::uint64_t seed, double run_noise = 0.001) {
  World dense;
  dense.sizes = 3;
  dense.ratio = 4;
  dense.tokens = tokens;
  dense.points = points;
  dense.run_noise = run_noise;
  dense.point_noise = 0.001;
  World btt = dense;
  btt.structure = "btt";
  btt.advantage = kAdvantage;
  btt.smallest *= 1.5;
  base::Random random(seed);
  std::vector<scaling::Run> runs = dense.runs(random);
  for (scaling::Run& run : btt.runs(random)) {
    runs.push_back(std::move(run));
  }
  return runs;
}

class Truncated : public ::testing::TestWithParam<double> {};  // tokens

// However many evaluations a run has, and with every seed.
TEST_P(Truncated, RunsGiveNoHeadline) {
  for (const int points : {5, 10, 25, 50}) {
    for (std::uint64_t seed = 0; seed < 10; ++seed) {
      AnalysisOptions options;
      options.bootstrap = 100;
      for (const Metric metric : {Metric::kFlops, Metric::kSeconds}) {
        options.metric = metric;
        const Analysis analysis =
            analyse(experiment(GetParam(), points, seed), options);
        EXPECT_FALSE(analysis.headline) << points << " points, seed " << seed;
        EXPECT_NE(analysis.headline_note, "");
        const StructureAnalysis& btt = find(analysis, "btt");
        EXPECT_FALSE(btt.multiplier_shown);
        EXPECT_NE(
            btt.multiplier_note.find("runs end before they touch"),
            std::string::npos)
            << btt.multiplier_note;
        const auto touch = [&](Touch which) {
          return [which](const RunAnalysis& run) { return run.touch == which; };
        };
        // Before what, where there is no law?
        const auto& of_btt = btt.run_analyses;
        EXPECT_TRUE(
            btt.law ? std::ranges::any_of(of_btt, touch(Touch::kEndsBefore))
                    : std::ranges::all_of(of_btt, touch(Touch::kUnknown)));
      }
    }
  }
}

// 0.3 to 30 tokens a parameter for the smallest, a sixteenth for the largest.
INSTANTIATE_TEST_SUITE_P(, Truncated, ::testing::Values(3e4, 3e5, 3e6));

TEST(Headline, WellTrainedRunsHaveOne) {
  int headlines = 0;
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    AnalysisOptions options;
    options.bootstrap = 200;
    const Analysis analysis = analyse(experiment(2e8, 30, seed), options);
    const StructureAnalysis& btt = find(analysis, "btt");
    headlines += analysis.headline == "btt" ? 1 : 0;
    EXPECT_NEAR(std::log(*btt.multiplier), std::log(kAdvantage), 0.3);
    EXPECT_EQ(btt.rank, 1);
    EXPECT_EQ(find(analysis, "dense").rank, 2);
    ASSERT_TRUE(analysis.rank_from && analysis.rank_to);
    EXPECT_GT(*analysis.rank_from, *analysis.rank_to);
  }
  EXPECT_GE(headlines, 18);
}

TEST(Headline, NoneForWhatNoiseExplains) {
  World dense;
  dense.sizes = 6;
  dense.tokens = 2e9;
  int headlines = 0;
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    base::Random random(seed);
    auto runs = dense.runs(random);
    World same = dense;
    same.structure = "same";
    same.smallest *= 1.5;
    for (scaling::Run& run : same.runs(random)) {
      runs.push_back(std::move(run));
    }
    AnalysisOptions options;
    options.bootstrap = 200;
    headlines += analyse(runs, options).headline ? 1 : 0;
  }
  EXPECT_LE(headlines, 2);  // a fortieth of them by chance
}

TEST(Rank, IsOverLossesInCommonOnly) {
  auto runs = experiment(2e8, 30, 1);
  // Trained as long, but it ends above where the others begin to be optimal.
  World weak;
  weak.structure = "weak";
  weak.floor = 2.6;
  weak.sizes = 2;
  base::Random random(2);
  for (scaling::Run& run : weak.runs(random)) {
    runs.push_back(std::move(run));
  }
  AnalysisOptions options;
  options.bootstrap = 0;
  const Analysis analysis = analyse(runs, options);
  EXPECT_EQ(find(analysis, "btt").rank, 1);
  EXPECT_EQ(find(analysis, "dense").rank, 2);
  EXPECT_FALSE(find(analysis, "weak").rank);
  EXPECT_FALSE(find(analysis, "weak").multiplier_shown);
  EXPECT_NE(analysis.rank_note, "");
  EXPECT_EQ(analysis.structures.back().structure, "weak");

  std::vector<scaling::Run> apart;
  for (const scaling::Run& run : runs) {
    if (run.structure != "btt") {
      apart.push_back(run);
    }
  }
  const Analysis none = analyse(apart, options);
  EXPECT_FALSE(none.structures[0].rank);
  EXPECT_FALSE(none.rank_from);
  EXPECT_FALSE(none.headline);
  EXPECT_NE(none.headline_note, "");
}

// Dense, and a structure that ends `below` where dense begins to be at its
// best, in log loss, up to the same distance for all.
Analysis overlap(double below) {
  std::vector<scaling::Run> runs;
  const auto add = [&](const char* structure, double shift) {
    for (const double start : {0.0, 2.0}) {
      scaling::Run run;
      run.structure = structure;
      run.name = start == 0 ? "small" : "large";
      // The parabolas of TangentsAreNoChords, raised.
      for (int i = -20; i <= 40; ++i) {
        const double x = 0.1 * i;
        const double y = 0.25 * (x - 1) * (x - 1) - start / 2;
        run.points.push_back({std::exp(x + start), std::exp(y + shift), 1, 1});
      }
      runs.push_back(run);
    }
  };
  add("dense", 0);
  add("other", 1.25 - below);
  AnalysisOptions options;
  options.bootstrap = 0;
  return analyse(runs, options);
}

TEST(Rank, IsNotOverLessThanTheNoise) {
  const Analysis wide = overlap(0.2);
  ASSERT_TRUE(wide.structures[0].rank) << wide.rank_note;
  const double distance = std::log(*wide.rank_from / *wide.rank_to) - 0.2;
  EXPECT_TRUE(overlap(0.008 - distance).structures[0].rank);
  const Analysis narrow = overlap(0.003 - distance);
  EXPECT_FALSE(narrow.structures[0].rank);
  EXPECT_FALSE(narrow.rank_from);
  EXPECT_NE(
      narrow.rank_note.find("within the noise of 0.5%"), std::string::npos)
      << narrow.rank_note;
}

TEST(Rank, NeedsTwoStructures) {
  World dense;
  base::Random random(1);
  AnalysisOptions options;
  options.bootstrap = 0;
  const Analysis analysis = analyse(dense.runs(random), options);
  EXPECT_EQ(
      analysis.headline_note,
      "no rank: there is nothing to compare 'dense' with");
}

TEST(Frontier, TangentsAreNoChords) {
  // Two parabolas, whose common tangent is known: y = -x / 2 + c touches both.
  Curve small, large, stopped;
  for (int i = -20; i <= 40; ++i) {
    const double x = 0.1 * i;
    small.x.push_back(x);
    small.y.push_back(0.25 * (x - 1) * (x - 1));
    large.x.push_back(x + 2);
    large.y.push_back(0.25 * (x - 1) * (x - 1) - 1);
    if (x < -1) {  // before its slope is -1/2, at 0
      stopped.x.push_back(x);
      stopped.y.push_back(small.y.back());
    }
  }
  const std::vector<Curve> trained = {small, large};
  const Frontier both = frontier(trained);
  const FrontierCheck check = check_frontier(both, 2);
  EXPECT_EQ(chord_share(both, check, both.vertices[0].y, -1), 0);
  EXPECT_EQ(check.runs[0], FrontierCheck::Run::kTouches);
  EXPECT_EQ(check.runs[1], FrontierCheck::Run::kTouches);
  EXPECT_NEAR(check.optimal_from, 0.25, 0.06);

  const std::vector<Curve> truncated = {stopped, large};
  const Frontier chord = frontier(truncated);
  const FrontierCheck found = check_frontier(chord, 2);
  EXPECT_GT(chord_share(chord, found, chord.vertices[0].y, -1), 0.2);
  EXPECT_EQ(found.runs[0], FrontierCheck::Run::kEndsBefore);
  EXPECT_EQ(found.late_touches, 0);
}

TEST(RunAnalyses, SayTokensPerParameterAndSlope) {
  AnalysisOptions options;
  options.bootstrap = 0;
  const Analysis analysis = analyse(experiment(2e8, 30, 1, 0), options);
  const auto& runs = find(analysis, "dense").run_analyses;
  ASSERT_EQ(runs.size(), 3u);
  EXPECT_NEAR(*runs[0].tokens_per_parameter, 2e8 / 1e5, 1e-6);
  EXPECT_NEAR(*runs[2].tokens_per_parameter, 2e8 / 1.6e6, 1e-6);
  EXPECT_EQ(runs[0].evaluations, 30u);
  const World world;  // of a fixed size, d log loss / d log tokens is known
  const double falling = world.b * std::pow(1.6e8, -world.beta);
  const double loss =
      world.floor + world.a * std::pow(1e5, -world.alpha) + falling;
  EXPECT_NEAR(*runs[0].end_slope, -world.beta * falling / loss, 0.005);
  EXPECT_EQ(runs[0].touch, Touch::kTouches);
}

TEST(Diverged, RunsAreNoResults) {
  auto runs = experiment(2e8, 30, 1);
  scaling::Run low;  // before it diverged it was better than any
  low.structure = "btt";
  low.name = "low";
  low.diverged = true;
  low.points = {{1e6, 0.5, 1, 1}};
  runs.push_back(low);
  scaling::Run rising = runs[0];  // no flag, but it ends above its beginning
  rising.points[5].loss = 0.5;
  for (std::size_t i = 20; i < rising.points.size(); ++i) {
    rising.points[i].loss = 50;
  }
  runs.push_back(rising);
  AnalysisOptions options;
  options.bootstrap = 0;
  const Analysis analysis = analyse(runs, options);
  for (const auto& structure : analysis.structures) {
    EXPECT_EQ(structure.diverged_runs, 1u);
    EXPECT_EQ(structure.runs, 3u);
    EXPECT_GT(structure.best_loss, 1.5);
  }
}

TEST(Spread, IsNotWidenedToHoldTheEstimate) {
  const auto found = spread({2, 2, 3, 3, 4}, 1, 5);
  ASSERT_TRUE(found);
  EXPECT_GE(found->ci95.low, 2);
  EXPECT_EQ(found->bias, 2);
  EXPECT_FALSE(spread({1, 2}, 1, 5));
}

TEST(Jackknife, IsTheStandardErrorOfAMean) {
  const std::vector<double> data = {1, 4, 2, 8, 5};
  std::vector<double> without;
  for (const double left_out : data) {
    without.push_back((20 - left_out) / 4);
  }
  // s / sqrt(n) with s^2 = 7.5, and Student's t with 4 degrees of freedom.
  const Interval interval = jackknife_interval(4, without);
  EXPECT_NEAR(interval.high - 4, 2.776 * std::sqrt(7.5 / 5), 1e-9);
  EXPECT_NEAR(4 - interval.low, 2.776 * std::sqrt(7.5 / 5), 1e-9);
}

// In seconds of one core, not of the clock: other work does not count.
TEST(Size, AThousandStructuresTakeSeconds) {
  base::Random random(1);
  std::vector<scaling::Run> runs;
  for (int s = 0; s < 1000; ++s) {
    World world;
    world.sizes = 3;
    world.ratio = 4;
    world.points = 30;
    world.structure = s == 0 ? "dense" : std::to_string(s);
    world.advantage = 0.5 + random.uniform();
    for (scaling::Run& run : world.runs(random)) {
      runs.push_back(std::move(run));
    }
  }
  AnalysisOptions options;
  options.bootstrap = 0;
  const std::clock_t before = std::clock();
  const Analysis analysis = analyse(runs, options);
  EXPECT_LT(static_cast<double>(std::clock() - before) / CLOCKS_PER_SEC, 10);
  EXPECT_EQ(analysis.structures.size(), 1000u);
}

TEST(Bootstrap, DoesNotDependOnThreadsAndSaysHowFarItIs) {
  AnalysisOptions options;
  options.bootstrap = 40;
  std::vector<double> lows;
  for (const int threads : {1, 3}) {
    int last = 0;
    options.threads = threads;
    options.progress = [&](int done, int total) {
      EXPECT_EQ(total, 40);
      EXPECT_GE(done, last);
      last = done;
    };
    const Analysis analysis = analyse(experiment(2e8, 30, 1), options);
    lows.push_back(find(analysis, "btt").multiplier_ci95->low);
    EXPECT_EQ(last, 40);
  }
  EXPECT_EQ(lows[0], lows[1]);
}

// By the touches that the report lists, whichever fit says so.
TEST(Law, HasNoIntervalWhereHalfOfItsRunsEndBefore) {
  int early = 0;
  for (const double tokens : {3e6, 1e7, 3e7, 1e8, 3e8}) {
    for (std::uint64_t seed = 0; seed < 5; ++seed) {
      AnalysisOptions options;
      options.bootstrap = 40;
      for (const auto& structure :
           analyse(experiment(tokens, 30, seed), options).structures) {
        const auto ends = std::ranges::count(
            structure.run_analyses, Touch::kEndsBefore, &RunAnalysis::touch);
        if (structure.law && 2 * ends >= std::ssize(structure.run_analyses)) {
          ++early;
          EXPECT_FALSE(structure.exponent_ci95) << tokens << " " << seed;
          EXPECT_FALSE(structure.floor_ci95) << tokens << " " << seed;
        }
      }
    }
  }
  EXPECT_GT(early, 0);
}

// Two runs fit any law with a floor that others share: that is none.
TEST(Law, TwoRunsHaveNone) {
  World dense;
  dense.sizes = 2;
  base::Random random(1);
  const Analysis analysis = analyse(dense.runs(random));
  EXPECT_FALSE(analysis.structures[0].law);
  EXPECT_TRUE(analysis.structures[0].law_points.empty());
  EXPECT_NE(analysis.structures[0].law_note, "");
}

}  // namespace
}  // namespace einforge::scaling
