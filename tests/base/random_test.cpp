#include "einforge/base/random.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>

namespace einforge::base {
namespace {

// The published first outputs of SplitMix64 for this seed.
TEST(Random, IsSplitMix64) {
  Random random(1234567);
  for (const std::uint64_t want :
       {6457827717110365317U,
        3203168211198807973U,
        9817491932198370423U,
        4593380528125082431U,
        16408922859458223821U}) {
    EXPECT_EQ(random.next(), want);
  }
}

TEST(Random, ResumesFromItsState) {
  Random random(3);
  random.normal();
  Random resumed(random.state());
  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(random.next(), resumed.next());
  }
}

TEST(Random, UniformHasItsMoments) {
  Random random(1);
  constexpr int kDraws = 100'000;
  double sum = 0;
  double squares = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double u = random.uniform();
    ASSERT_GE(u, 0);
    ASSERT_LT(u, 1);
    sum += u;
    squares += u * u;
  }
  // Five standard errors.
  EXPECT_NEAR(sum / kDraws, 0.5, 5 * std::sqrt(1.0 / 12 / kDraws));
  EXPECT_NEAR(squares / kDraws, 1.0 / 3, 5 * std::sqrt(4.0 / 45 / kDraws));
}

TEST(Random, NormalHasItsMoments) {
  Random random(2);
  constexpr int kDraws = 100'000;
  std::array<double, 4> moments{};
  for (int i = 0; i < kDraws; ++i) {
    const double z = random.normal();
    ASSERT_TRUE(std::isfinite(z));
    double power = 1;
    for (double& moment : moments) {
      power *= z;
      moment += power / kDraws;
    }
  }
  // Five standard errors: the variances are 1, 2, 15 and 96.
  EXPECT_NEAR(moments[0], 0, 5 * std::sqrt(1.0 / kDraws));
  EXPECT_NEAR(moments[1], 1, 5 * std::sqrt(2.0 / kDraws));
  EXPECT_NEAR(moments[2], 0, 5 * std::sqrt(15.0 / kDraws));
  EXPECT_NEAR(moments[3], 3, 5 * std::sqrt(96.0 / kDraws));
}

TEST(Random, BelowIsUniformOverItsRange) {
  Random random(3);
  constexpr int kDraws = 70'000;
  std::array<int, 7> counts{};
  for (int i = 0; i < kDraws; ++i) {
    const std::uint64_t value = random.below(counts.size());
    ASSERT_LT(value, counts.size());
    ++counts[value];
  }
  double chi_squared = 0;
  for (const int count : counts) {
    chi_squared += std::pow(count - 10'000, 2) / 10'000;
  }
  EXPECT_LT(chi_squared, 30);  // 6 degrees of freedom: p = 4e-5
  EXPECT_EQ(random.below(1), 0U);
}

}  // namespace
}  // namespace einforge::base
