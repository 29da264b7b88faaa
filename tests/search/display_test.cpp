#include "einforge/search/display.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace einforge::search {
namespace {

using testing::HasSubstr;

Snapshot example() {
  Snapshot snapshot;
  snapshot.name = "demo";
  snapshot.done = 7;
  snapshot.failed = 1;
  snapshot.total = 18;
  snapshot.share_done = 0.5;
  snapshot.elapsed = 185;
  snapshot.seconds_left = 62;
  snapshot.running = {
      {"btt:0.25 gpt d128 L2 lr 0.003", 340, 1000, 1.9234},
      {"dense gpt d64 L2 lr 0.003", 0, 1000, NAN}};
  snapshot.best = {
      {"dense", 1.7112, "gpt d128 L2"}, {"monarch", 1.75, "gpt d64 L2"}};
  return snapshot;
}

TEST(Display, SaysWhatRunsHowFarAndWhatIsBest) {
  const auto lines = render(example());
  ASSERT_EQ(lines.size(), 5U);
  EXPECT_EQ(
      lines[0],
      "demo [##########..........] 7/18 trials (1 failed), 50% of compute, "
      "3m 05s elapsed, ETA 1m 02s");
  EXPECT_EQ(
      lines[1],
      "   1  btt:0.25 gpt d128 L2 lr 0.003   34%  step 340/1000  loss 1.923");
  EXPECT_THAT(lines[2], testing::EndsWith("0%  step 0/1000"));
  EXPECT_EQ(lines[3], "  best  1.7112  dense  gpt d128 L2");
  EXPECT_EQ(lines[4], "        1.7500  monarch  gpt d64 L2");
}

TEST(Display, ShowsAFewOfMany) {
  Snapshot snapshot = example();
  for (int i = 0; i < 100; ++i) {
    snapshot.running.push_back(snapshot.running[0]);
    snapshot.best.push_back(snapshot.best[0]);
  }
  const auto lines = render(snapshot);
  EXPECT_LT(lines.size(), 30U);
}

TEST(Display, AdmitsThatItDoesNotKnow) {
  Snapshot snapshot = example();
  snapshot.seconds_left = std::numeric_limits<double>::infinity();
  EXPECT_THAT(render(snapshot)[0], HasSubstr("ETA --"));
}

}  // namespace
}  // namespace einforge::search
