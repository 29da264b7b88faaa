#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace einforge::train {

// Seconds that these CPUs have been busy since the machine started, summed
// and rounded to hundredths as the kernel keeps them; NaN where `stat`, the
// text of /proc/stat, does not have them.
double busy_seconds(std::string_view stat, const std::vector<int>& cpus);

// How much of its CPUs others take; the processes of a search are no others.
class MachineLoad {
 public:
  MachineLoad();

  // The mean number of CPUs that other processes kept busy since the last call
  // that returned one, or since construction. NaN until a second has passed,
  // and where the system does not say.
  double others();

  int cpus() const { return static_cast<int>(cpus_.size()); }

 private:
  struct Reading {
    double wall = 0;
    double busy = 0;  // all processes
    double own = 0;   // of this process and those that belong to it
  };
  Reading read() const;

  std::vector<int> cpus_;
  Reading last_;
};

// Why a run of `threads` threads has times that are no measurement, or an
// empty string: others leave it less than 0.8 of the CPUs that it uses.
std::string loaded(double others, int cpus, int threads);

}  // namespace einforge::train
