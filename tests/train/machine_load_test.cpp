#include "einforge/train/machine_load.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
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

// Runs `work` in a process that nobody here has started: its parent is gone.
template <typename F>
void run_orphan(F work) {
  const pid_t parent = ::fork();
  if (parent == 0) {
    if (::fork() == 0) {
      work();
    }
    ::_exit(0);
  }
  ::waitpid(parent, nullptr, 0);
}

[[noreturn]] void spin() {
  // Asks the system at each turn, so that no compiler drops the loop.
  while (::getppid() >= 0) {
  }
  ::_exit(0);
}

double others_in(MachineLoad& load) {
  std::this_thread::sleep_for(std::chrono::milliseconds(1500));
  return load.others();
}

class Pipe {
 public:
  Pipe() { EXPECT_EQ(::pipe(ends_.data()), 0); }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  ~Pipe() {
    ::close(ends_[0]);
    ::close(ends_[1]);
  }
  template <typename T>
  bool write(const T& value) const {
    return ::write(ends_[1], &value, sizeof(value)) == ssize_t{sizeof(value)};
  }
  template <typename T>
  T read() const {
    T value{};
    EXPECT_EQ(::read(ends_[0], &value, sizeof(value)), ssize_t{sizeof(value)});
    return value;
  }

 private:
  std::array<int, 2> ends_{};
};

TEST(MachineLoad, CountsOthers) {
  MachineLoad load;
  EXPECT_TRUE(std::isnan(load.others()));  // too short
  const Pipe pipe;
  run_orphan([&] {
    if (pipe.write(::getpid())) {
      spin();
    }
  });
  const auto busy = pipe.read<pid_t>();
  const double others = others_in(load);
  ::kill(busy, SIGKILL);
  if (std::isnan(others)) {
    GTEST_SKIP() << "this system does not tell";
  }
  // Whatever else runs here only adds to it; a share of a CPU at least.
  EXPECT_GT(others, 0.3);
  EXPECT_LE(others, load.cpus() + 0.1);
}

// One process is another's for a stranger, and none for who started it.
TEST(MachineLoad, DoesNotCountTheProcessesThatItHasStarted) {
  const Pipe pipe;
  MachineLoad load;
  run_orphan([&] {
    MachineLoad strange;
    pipe.write(others_in(strange));
  });
  const pid_t busy = ::fork();
  if (busy == 0) {
    spin();
  }
  const double own = others_in(load);
  const auto strange = pipe.read<double>();
  ::kill(busy, SIGKILL);
  rusage usage{};
  ::wait4(busy, nullptr, 0, &usage);
  if (std::isnan(own) || std::isnan(strange)) {
    GTEST_SKIP() << "this system does not tell";
  }
  const double seconds = static_cast<double>(usage.ru_utime.tv_sec) +
                         1e-6 * static_cast<double>(usage.ru_utime.tv_usec) +
                         static_cast<double>(usage.ru_stime.tv_sec) +
                         1e-6 * static_cast<double>(usage.ru_stime.tv_usec);
  EXPECT_GT(strange - own, 0.5 * seconds / 1.5);
}

}  // namespace
}  // namespace einforge::train
