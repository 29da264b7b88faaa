#include "einforge/train/schedule.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "tests/base/test_name.h"

namespace einforge::train {
namespace {

ScheduleConfig schedule(
    const std::string& kind,
    std::int64_t warmup_steps,
    double decay_share = 0.2,
    double final_ratio = 0.1) {
  ScheduleConfig config;
  config.kind = kind;
  config.warmup_steps = warmup_steps;
  config.decay_share = decay_share;
  config.final_ratio = final_ratio;
  return config;
}

// Tables worked out by hand for runs of 10 steps.
struct Case {
  std::string name;
  ScheduleConfig config;
  std::vector<double> expected;
};

void PrintTo(const Case& c, std::ostream* out) {
  *out << c.name;
}

class ScheduleTest : public testing::TestWithParam<Case> {};

INSTANTIATE_TEST_SUITE_P(
    Kinds,
    ScheduleTest,
    testing::Values(
        Case{
            "constant",
            schedule("constant", 0),
            {1, 1, 1, 1, 1, 1, 1, 1, 1, 1}},
        Case{
            "warmup",
            schedule("constant", 4),
            {0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1}},
        Case{
            "warmup longer than the run",
            schedule("cosine", 20),
            {0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5}},
        // After 2 steps of warm-up, 8 steps: 0.1 + 0.45 (1 + cos(pi i / 8)).
        Case{
            "cosine",
            schedule("cosine", 2),
            {0.5,
             1,
             0.9657457896,
             0.8681980515,
             0.7222075445,
             0.55,
             0.3777924555,
             0.2318019485,
             0.1342542104,
             0.1}},
        // The last 4 of 10 steps go down from 1 to 0.2 in equal parts.
        Case{
            "wsd",
            schedule("wsd", 2, 0.4, 0.2),
            {0.5, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2}},
        Case{
            "wsd without decay",
            schedule("wsd", 0, 0, 0),
            {1, 1, 1, 1, 1, 1, 1, 1, 1, 1}}),
    base::testing::TestName());

TEST(Warmup, IsATwentiethUnlessGiven) {
  ScheduleConfig config;
  EXPECT_EQ(config.warmup(1000), 50);
  EXPECT_EQ(config.warmup(9), 0);
  EXPECT_EQ(config.warmup(10), 1);
  EXPECT_DOUBLE_EQ(rate_factor(config, 24, 1000), 0.5);
  EXPECT_DOUBLE_EQ(rate_factor(config, 49, 1000), 1);
  config.warmup_steps = 0;
  EXPECT_EQ(config.warmup(1000), 0);
}

TEST_P(ScheduleTest, MatchesTheTable) {
  const Case& c = GetParam();
  for (std::size_t step = 0; step < c.expected.size(); ++step) {
    EXPECT_NEAR(
        rate_factor(c.config, static_cast<std::int64_t>(step), 10),
        c.expected[step],
        1e-9)
        << "step " << step;
  }
}

}  // namespace
}  // namespace einforge::train
