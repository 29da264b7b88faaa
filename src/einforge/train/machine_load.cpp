#include "einforge/train/machine_load.h"

#include <fmt/format.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <sstream>
#include <string>
#include <system_error>

namespace einforge::train {
namespace {

constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();
constexpr double kShortest = 1;  // the kernel counts hundredths of a second

double now_seconds() {
  return std::chrono::duration<double>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
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

struct Process {
  pid_t parent = 0;
  double seconds = 0;  // CPU time, with that of those it has waited for
};

// Of a process by the name of its folder in /proc.
Process read_process(const std::string& name) {
  std::ifstream file("/proc/" + name + "/stat");
  std::string text;
  std::getline(file, text);
  // "pid (name) state parent ...": utime to cstime are the 12th to 15th after
  // ")".
  std::istringstream words(text.substr(std::min(text.rfind(')'), text.size())));
  std::string word;
  Process process;
  double ticks = 0;
  for (int i = 0; i <= 15 && words >> word; ++i) {
    if (i == 2) {
      process.parent = static_cast<pid_t>(std::stol(word));
    } else if (i >= 12) {
      ticks += std::stod(word);
    }
  }
  process.seconds = ticks / static_cast<double>(::sysconf(_SC_CLK_TCK));
  return process;
}

// This process or, of processes that another einforge has started, that one.
pid_t leader() {
  std::error_code none;
  const pid_t parent = ::getppid();
  const auto program = [&](const std::string& name) {
    return std::filesystem::read_symlink("/proc/" + name + "/exe", none);
  };
  const std::filesystem::path own = program("self");
  return !own.empty() && own == program(std::to_string(parent)) ? parent
                                                                : ::getpid();
}

// Of the leader and the processes that it has started. Not every kernel lists a
// process's children.
double own_seconds() {
  const pid_t first = leader();
  double sum = read_process(std::to_string(first)).seconds;
  std::error_code error;
  for (std::filesystem::directory_iterator item("/proc", error), end;
       !error && item != end;
       item.increment(error)) {
    const std::string name = item->path().filename().string();
    if (name.find_first_not_of("0123456789") == std::string::npos) {
      const Process process = read_process(name);
      sum += process.parent == first ? process.seconds : 0;
    }
  }
  return sum;
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
  reading.wall = now_seconds();
  reading.own = own_seconds();
  std::ifstream file("/proc/stat");
  std::stringstream text;
  text << file.rdbuf();
  reading.busy = busy_seconds(text.str(), cpus_);
  return reading;
}

double MachineLoad::others() {
  if (now_seconds() - last_.wall < kShortest) {
    return kUnknown;
  }
  const Reading now = read();
  const double wall = now.wall - last_.wall;
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
      "other processes kept {:.1f} of {} CPUs busy while {} thread{} ran here: "
      "seconds and rates of this run measure nothing",
      others,
      cpus,
      threads,
      threads > 1 ? "s" : "");
}

}  // namespace einforge::train
