#include "einforge/train/machine_load.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <csignal>
#include <thread>

namespace einforge::train {
namespace {

constexpr const char* kStat =
    "cpu  1000 100 500 90000 300 10 20 30 7 0\n"
    "cpu0 600 60 300 45000 100 6 12 18 7 0\n"
    "cpu1 400 40 200 45000 200 4 8 12 0 0\n"
    "cpu11 1 1 1 1 1 1 1 1 0 0\n"
    "intr 12345 0 0\n";

TEST(MachineLoad, ReadsTheCpusAskedFor) {
  const double tick = 1.0 / static_cast<double>(::sysconf(_SC_CLK_TCK));
  EXPECT_DOUBLE_EQ(busy_seconds(kStat, {0}), 996 * tick);
  EXPECT_DOUBLE_EQ(busy_seconds(kStat, {1}), 664 * tick);
  EXPECT_DOUBLE_EQ(busy_seconds(kStat, {0, 1, 11}), (996 + 664 + 6) * tick);
  EXPECT_TRUE(std::isnan(busy_seconds(kStat, {2})));
  EXPECT_TRUE(std::isnan(busy_seconds("", {0})));
  EXPECT_TRUE(std::isnan(busy_seconds(kStat, {})));
}

TEST(MachineLoad, SaysWhenTimesMeasureNothing) {
  EXPECT_EQ(loaded(0, 2, 2), "");
  EXPECT_EQ(loaded(0.3, 2, 2), "");
  EXPECT_NE(loaded(0.5, 2, 2).find("0.5 of 2 CPUs"), std::string::npos);
  EXPECT_NE(loaded(16, 16, 8), "");
  // There is room beside one thread.
  EXPECT_EQ(loaded(1, 2, 1), "");
  EXPECT_EQ(loaded(8, 16, 8), "");
  EXPECT_EQ(loaded(NAN, 2, 2), "");
  // More threads than CPUs are one's own fault.
  EXPECT_EQ(loaded(0, 2, 8), "");
}

// A busy process of another id counts, one's own work does not.
TEST(MachineLoad, CountsOthersAndNotItself) {
  MachineLoad load;
  EXPECT_TRUE(std::isnan(load.others()));  // too short
  const pid_t busy = ::fork();
  if (busy == 0) {
    // Asks the system at each turn, so that no compiler drops the loop.
    while (::getppid() >= 0) {
    }
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(1500));
  const double others = load.others();
  ::kill(busy, SIGKILL);
  ::waitpid(busy, nullptr, 0);
  if (std::isnan(others)) {
    GTEST_SKIP() << "this system does not tell";
  }
  // Whatever else runs here only adds to it; a share of a CPU at least.
  EXPECT_GT(others, 0.3);
  EXPECT_LE(others, load.cpus() + 0.1);
}

}  // namespace
}  // namespace einforge::train
