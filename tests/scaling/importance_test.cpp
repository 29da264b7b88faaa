#include "einforge/scaling/importance.h"

#include <gtest/gtest.h>

#include <functional>
#include <vector>

#include "einforge/base/random.h"

namespace einforge::scaling {
namespace {

// All combinations of the levels.
std::vector<AxisSample> grid(
    const std::vector<Axis>& axes,
    const std::function<double(const std::vector<int>&)>& value) {
  std::vector<AxisSample> samples;
  std::vector<int> at(axes.size());
  for (;;) {
    samples.push_back({at, value(at)});
    std::size_t axis = 0;
    while (axis < axes.size() && ++at[axis] == axes[axis].levels) {
      at[axis++] = 0;
    }
    if (axis == axes.size()) {
      return samples;
    }
  }
}

double variance(const std::vector<double>& values) {
  double mean = 0;
  double square = 0;
  for (const double value : values) {
    mean += value / static_cast<double>(values.size());
    square += value * value / static_cast<double>(values.size());
  }
  return square - mean * mean;
}

const std::vector<Axis> kAxes = {
    {"structure", 5, false}, {"rate", 4, true}, {"width", 3, true}};

constexpr double kStructure[] = {0.3, -0.2, 0.9, 0.1, 0.4};
constexpr double kRate[] = {0.5, 0.1, 0, 0.2};

// A tree grown to the end on a whole grid is the function itself, so that its
// shares are those of the two-way analysis of variance, computed by hand.
TEST(Importance, IsTheAnalysisOfVarianceOfAWholeGrid) {
  const auto value = [](const std::vector<int>& at) {
    return kStructure[at[0]] + kRate[at[1]] +
           0.3 * kStructure[at[0]] * kRate[at[1]];
  };
  std::vector<double> all;
  const auto samples = grid(kAxes, value);
  for (const AxisSample& sample : samples) {
    all.push_back(sample.value);
  }
  std::vector<double> by_structure;
  for (int structure = 0; structure < 5; ++structure) {
    double mean = 0;
    for (int rate = 0; rate < 4; ++rate) {
      mean += value({structure, rate, 0}) / 4;
    }
    by_structure.push_back(mean);
  }
  std::vector<double> by_rate;
  for (int rate = 0; rate < 4; ++rate) {
    double mean = 0;
    for (int structure = 0; structure < 5; ++structure) {
      mean += value({structure, rate, 0}) / 5;
    }
    by_rate.push_back(mean);
  }
  const Importances found =
      importances(kAxes, samples, {.trees = 1, .resample = false});
  const double structure = variance(by_structure) / variance(all);
  const double rate = variance(by_rate) / variance(all);
  EXPECT_NEAR(found.axes[0].share, structure, 1e-9);
  EXPECT_NEAR(found.axes[1].share, rate, 1e-9);
  EXPECT_NEAR(found.axes[2].share, 0, 1e-9);
  EXPECT_NEAR(found.together.share, 1 - structure - rate, 1e-9);
  EXPECT_GT(found.together.share, 1e-3);
}

TEST(Importance, HoldsAnAxisAtItsLastLevel) {
  // The rate matters at the first width alone.
  const auto samples = grid(kAxes, [](const std::vector<int>& at) {
    return kStructure[at[0]] + (at[2] == 0 ? kRate[at[1]] : 0) + at[2];
  });
  const Importances found =
      importances(kAxes, samples, {.trees = 1, .resample = false, .held = 2});
  EXPECT_NEAR(found.axes[0].share, 1, 1e-9);
  EXPECT_NEAR(found.axes[1].share, 0, 1e-9);
  EXPECT_EQ(found.axes[2].share, 0);
}

// Half of a noisy grid: intervals hold what the whole grid has without noise.
TEST(Importance, FindsTheSharesAgainFromFewNoisyTrials) {
  base::Random random(3);
  const auto value = [](const std::vector<int>& at) {
    return kStructure[at[0]] + kRate[at[1]] + 0.02 * at[2];
  };
  std::vector<double> all;
  std::vector<AxisSample> some;
  for (AxisSample& sample : grid(kAxes, value)) {
    all.push_back(sample.value);
    sample.value += 0.03 * random.normal();
    if (random.uniform() < 0.5) {
      some.push_back(sample);
    }
  }
  const Importances found = importances(kAxes, some);
  const double rate =
      variance({kRate[0], kRate[1], kRate[2], kRate[3]}) / variance(all);
  EXPECT_NEAR(found.axes[1].share, rate, 0.15);
  EXPECT_LE(found.axes[1].ci95.low, rate);
  EXPECT_GE(found.axes[1].ci95.high, rate);
  EXPECT_GT(found.axes[0].ci95.low, found.axes[1].ci95.high);
  EXPECT_LT(found.axes[2].ci95.low, 0.05);
}

TEST(Importance, IsNothingWhereNothingDiffers) {
  const auto samples = grid(kAxes, [](const std::vector<int>&) { return 1.5; });
  const Importances found = importances(kAxes, samples);
  EXPECT_EQ(found.axes[0].share, 0);
  EXPECT_EQ(found.together.share, 0);
  EXPECT_EQ(importances(kAxes, {}).axes.size(), 3U);
}

}  // namespace
}  // namespace einforge::scaling
