#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "einforge/scaling/evaluation.h"

namespace einforge::scaling {

struct BootstrapOptions {
  int replicates = 0;
  std::uint64_t seed = 0;
  int threads = 0;  // 0: one per core
  std::function<void(int done, int total)> progress;
};

// Run-to-run noise as the laws' residuals show it.
struct RunNoise {
  double size = 0;  // standard deviation of a run's log loss
  int degrees = 0;  // of freedom, behind it
};

// What one replicate says about each structure.
struct Replicate {
  std::vector<std::optional<PowerLaw>> laws;
  std::vector<std::optional<double>> log_multipliers;
};

// Each replicate draws from its own random numbers, so that the result does not
// depend on threads. With `noise`, every run is laid on its
// law (or left where it is, when it has none) and given new noise, and
// frontier, fit and multiplier are made again. Without it, and for families
// that `tangent` skips, runs are drawn with replacement, and only frontier and
// multiplier made again.
std::vector<Replicate> bootstrap(
    std::span<const Family> families,
    std::optional<std::size_t> baseline,
    std::span<const TangentFit> fits,
    const std::optional<RunNoise>& noise,
    const TangentOptions& tangent,
    const BootstrapOptions& options);

// Runs `task(i)` for i below `count` on all cores; `progress` is called from
// this thread. An exception of a task is thrown here.
void in_parallel(
    int count,
    int threads,
    const std::function<void(int)>& task,
    const std::function<void(int done, int total)>& progress = {});

}  // namespace einforge::scaling
