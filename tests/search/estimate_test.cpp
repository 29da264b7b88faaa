#include "einforge/search/estimate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

namespace einforge::search {
namespace {

using testing::ElementsAre;

TEST(Estimate, KnowsNothingBeforeAnythingRan) {
  EXPECT_TRUE(std::isinf(seconds_left({{"a", 0, 0, 10}}, 1)));
  EXPECT_EQ(seconds_left({}, 1), 0);
}

TEST(Estimate, UsesTheSpeedOfTheKindThenTheMean) {
  // a: 10 FLOP/s, b: 2.5 FLOP/s; both together 40 FLOPs in 10 s.
  const std::vector<TrialCost> trials = {
      {"a", 20, 2, 0},
      {"b", 20, 8, 0},
      {"a", 0, 0, 50},
      {"b", 0, 0, 50},
      {"c", 0, 0, 40}};
  EXPECT_THAT(seconds_left(trials), ElementsAre(0, 0, 5, 20, 10));
}

TEST(Estimate, SharesTheWorkButNotATrial) {
  const std::vector<TrialCost> trials = {
      {"a", 10, 1, 0}, {"a", 0, 0, 100}, {"a", 0, 0, 20}};
  EXPECT_DOUBLE_EQ(seconds_left(trials, 1), 12);
  EXPECT_DOUBLE_EQ(seconds_left(trials, 2), 10);
}

TEST(Estimate, ExpectsHalvingToDropMost) {
  EXPECT_DOUBLE_EQ(expected_share_left(0, 1, 3), 1);
  // Rungs end at 1/4, 1/2 and 1 of the budget; a half passes each.
  EXPECT_DOUBLE_EQ(
      expected_share_left(0, 3, 2), 0.25 + 0.5 * 0.25 + 0.25 * 0.5);
  EXPECT_DOUBLE_EQ(expected_share_left(1, 3, 2), 0.25 + 0.5 * 0.5);
  EXPECT_DOUBLE_EQ(expected_share_left(3, 3, 2), 0);
}

}  // namespace
}  // namespace einforge::search
