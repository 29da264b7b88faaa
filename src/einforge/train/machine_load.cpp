#include "einforge/train/machine_load.h"

#include <fmt/format.h>
#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <limits>
#include <sstream>

namespace einforge::train {
namespace {

constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();
constexpr double kShortest = 1;  // the kernel counts hundredths of a second

double seconds(const timeval& time) {
  return static_cast<double>(time.tv_sec) +
         1e-6 * static_cast<double>(time.tv_usec);
}

std::vector<int> usable_cpus() {
  std::vector<int> cpus;
  cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(0, sizeof(set), &set) == 0) {
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (CPU_ISSET(cpu, &set)) {
        cpus.push_back(cpu);
      }
    }
  }
  return cpus;
}

}  // namespace

double busy_seconds(std::string_view stat, const std::vector<int>& cpus) {
  std::istringstream lines{std::string(stat)};
  std::string line;
  double ticks = 0;
  std::size_t found = 0;
  while (std::getline(lines, line)) {
    // "cpu0 user nice system idle iowait irq softirq steal ...", in ticks.
    std::istringstream words(line);
    std::string name;
    words >> name;
    if (!name.starts_with("cpu") || name.size() == 3) {
      continue;
    }
    const bool wanted = std::ranges::any_of(
        cpus, [&](int cpu) { return name == fmt::format("cpu{}", cpu); });
    double user = 0, nice = 0, system = 0, idle = 0, wait = 0, irq = 0;
    double soft = 0, steal = 0;
    if (wanted && words >> user >> nice >> system >> idle >> wait >> irq >>
                      soft >> steal) {
      ticks += user + nice + system + irq + soft + steal;
      ++found;
    }
  }
  return found == cpus.size() && found > 0
             ? ticks / static_cast<double>(::sysconf(_SC_CLK_TCK))
             : kUnknown;
}

MachineLoad::MachineLoad() : cpus_(usable_cpus()), last_(read()) {}

MachineLoad::Reading MachineLoad::read() const {
  Reading reading;
  reading.wall = std::chrono::duration<double>(
                     std::chrono::steady_clock::now().time_since_epoch())
                     .count();
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  reading.own = seconds(usage.ru_utime) + seconds(usage.ru_stime);
  std::ifstream file("/proc/stat");
  std::stringstream text;
  text << file.rdbuf();
  reading.busy = busy_seconds(text.str(), cpus_);
  return reading;
}

double MachineLoad::others() {
  const Reading now = read();
  const double wall = now.wall - last_.wall;
  if (wall < kShortest) {
    return kUnknown;
  }
  const double busy = now.busy - last_.busy;
  const double own = now.own - last_.own;
  last_ = now;
  return std::isnan(busy) ? kUnknown : std::max(0.0, busy - own) / wall;
}

std::string loaded(double others, int cpus, int threads) {
  constexpr double kEnough = 0.8;
  const double used = std::min(cpus, threads);
  if (std::isnan(others) || cpus - others >= kEnough * used) {
    return "";
  }
  return fmt::format(
      "other processes kept {:.1f} of {} CPUs busy while {} thread{} trained: "
      "seconds and tokens per second of this run measure nothing",
      others,
      cpus,
      threads,
      threads > 1 ? "s" : "");
}

}  // namespace einforge::train
