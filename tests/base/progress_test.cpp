#include "einforge/base/progress.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <thread>

namespace einforge::base {
namespace {

using ::testing::HasSubstr;

// Standard error of a test is a pipe or a file, not a terminal.
template <typename F>
std::string printed(F&& f) {
  ::testing::internal::CaptureStderr();
  f();
  return ::testing::internal::GetCapturedStderr();
}

TEST(Progress, PrintsTheFirstAndTheLastLineToALog) {
  ::unsetenv("EINFORGE_PROGRESS");
  const std::string out = printed([] {
    Progress progress("train", 100);
    for (int i = 0; i <= 100; ++i) {
      progress.update(i, "loss 1.5");
    }
  });
  EXPECT_THAT(out, HasSubstr("train ["));
  EXPECT_THAT(out, HasSubstr("  0% loss 1.5 | ETA --"));
  EXPECT_THAT(out, HasSubstr("[####################] 100% loss 1.5"));
  EXPECT_EQ(std::count(out.begin(), out.end(), '\n'), 2);
  EXPECT_EQ(out.find('\r'), std::string::npos);
}

TEST(Progress, IsSilentWhenAsked) {
  ::setenv("EINFORGE_PROGRESS", "0", 1);
  const std::string out = printed([] { Progress("x", 1).update(1); });
  ::unsetenv("EINFORGE_PROGRESS");
  EXPECT_EQ(out, "");
}

TEST(Progress, EstimatesFromFreshWorkOnly) {
  printed([] {
    Progress progress("x", 1000, 900);
    EXPECT_TRUE(std::isinf(progress.seconds_left()));
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    progress.update(950);
    // 50 done in at least 0.05 s, so as long again for the other 50; if the
    // 900 counted, it would be far less.
    EXPECT_GE(progress.seconds_left(), 0.04);
    EXPECT_LT(progress.seconds_left(), 10);
    progress.update(1000);
    EXPECT_EQ(progress.seconds_left(), 0);
  });
}

TEST(Progress, TakesOddTotals) {
  ::unsetenv("EINFORGE_PROGRESS");
  const std::string out = printed([] {
    Progress("empty", 0).update(0);
    Progress("over", 10).update(25);
    Progress("unknown", -1).update(25, "25 lines");
  });
  EXPECT_THAT(out, HasSubstr("unknown 25 lines\n"));
  EXPECT_THAT(out, HasSubstr("empty"));
  EXPECT_THAT(out, HasSubstr("over [####################] 100%"));
}

}  // namespace
}  // namespace einforge::base
