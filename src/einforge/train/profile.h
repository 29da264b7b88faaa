#pragma once

#include <torch/types.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "einforge/base/json.h"

namespace einforge::train {

// Where the time of a training step goes.
struct Profile {
  struct Row {
    std::string name;  // of a kernel, see short_kernel_name(), or an operator
    double milliseconds = 0;  // per step, without what it called
    double share = 0;         // of all rows
    double calls = 0;         // per step
  };
  // On a GPU rows are its kernels and copies, else operators of the CPU.
  bool gpu = false;
  std::int64_t steps = 0;  // profiled
  // Of a step with the profiler, and without it; the latter is absent when
  // there were no steps before to time.
  double profiled_milliseconds = 0;
  std::optional<double> milliseconds;
  // In which the GPU did anything, per step.
  std::optional<double> busy_milliseconds;
  std::vector<Row> rows;  // most expensive first

  // Of a step without the profiler, if known: launches are slower with it.
  std::optional<double> idle_share() const;
};

base::Json to_json(const Profile& profile);

// For people, the most expensive rows only.
std::string profile_table(const Profile& profile);

// The name of a kernel without return type, parameters and namespaces; where
// its template arguments are long, only those of them that distinguish kernels.
// At most 70 characters.
std::string short_kernel_name(std::string_view name);

// The steps that are profiled: after step `from` up to step `to`; those after
// `timed_from` up to `from` are timed.
struct ProfileWindow {
  std::int64_t timed_from = 0;
  std::int64_t from = 0;
  std::int64_t to = 0;
  bool operator==(const ProfileWindow&) const = default;
};

// `count` steps or what is left, and as many before them that are timed, some
// steps after `first`; none is `busy` (logs, evaluates) if there are such near,
// if need be fewer timed ones.
ProfileWindow profile_window(
    std::int64_t first,
    std::int64_t target,
    std::int64_t count,
    const std::function<bool(std::int64_t)>& busy);

// Records from its construction on; one at a time in a process.
class Profiler {
 public:
  // Throws std::runtime_error, in one line, when Torch cannot profile.
  explicit Profiler(torch::Device device);
  Profiler(const Profiler&) = delete;
  Profiler& operator=(const Profiler&) = delete;
  ~Profiler();

  // What the last `steps` steps did, of which one took `milliseconds` without
  // the profiler, and a Chrome trace at `trace`. The device must have finished.
  // Throws std::runtime_error as above, base::IoError when it cannot write.
  Profile stop(
      std::int64_t steps,
      std::optional<double> milliseconds,
      const std::filesystem::path& trace);

 private:
  torch::Device device_;
  bool running_ = false;
  std::int64_t start_ = 0;  // nanoseconds
};

}  // namespace einforge::train
