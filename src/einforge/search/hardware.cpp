#include "einforge/search/hardware.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sched.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>

#include "einforge/base/error.h"
#include "einforge/base/text.h"

namespace einforge::search {
namespace {

// The value of the first line of a /proc file that begins with `key`.
std::string proc_value(const char* path, const std::string& key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with(key)) {
      return base::trim(line.substr(line.find(':') + 1));
    }
  }
  return "";
}

// That this process may use.
int available_cores() {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  return ::sched_getaffinity(0, sizeof(cores), &cores) == 0
             ? std::max(1, CPU_COUNT(&cores))
             : 1;
}

}  // namespace

int threads_per_process(const SearchConfig& config) {
  const auto processes =
      static_cast<int>(config.workers * config.processes_per_trial);
  return std::max(1, available_cores() / processes);
}

int threads_per_worker(const SearchConfig& config) {
  return threads_per_process(config) *
         static_cast<int>(config.processes_per_trial);
}

std::vector<std::string> device_groups(const SearchConfig& config) {
  if (config.devices.empty()) {
    return {config.train.device};
  }
  std::vector<std::string> groups;
  const auto size = static_cast<std::size_t>(config.processes_per_trial);
  for (std::size_t i = 0; i < config.devices.size(); i += size) {
    const auto first = config.devices.begin() + static_cast<std::ptrdiff_t>(i);
    groups.push_back(fmt::format(
        "{}",
        fmt::join(first, first + static_cast<std::ptrdiff_t>(size), ",")));
  }
  return groups;
}

std::string visible_devices(
    const std::string& group, const std::string& visible) {
  const std::vector<std::string> own = base::split(visible, ',');
  std::vector<std::string> chosen;
  for (const std::string& device : base::split(group, ',')) {
    const std::string number = device.substr(device.find(':') + 1);
    const auto index =
        static_cast<std::size_t>(base::parse_integer("devices", number));
    base::check(
        visible.empty() || index < own.size(),
        "devices: expected one of the {} GPUs of CUDA_VISIBLE_DEVICES; got "
        "'{}'",
        own.size(),
        device);
    chosen.push_back(visible.empty() ? number : own[index]);
  }
  return fmt::format("{}", fmt::join(chosen, ","));
}

base::Json describe_hardware(const SearchConfig& config) {
  base::Json json;
  json["cpu"] = proc_value("/proc/cpuinfo", "model name");
  json["cores"] = available_cores();
  json["memory"] = proc_value("/proc/meminfo", "MemTotal");
  // Without asking CUDA, which would start it in a process that forks.
  std::error_code none;
  for (const auto& gpu :
       std::filesystem::directory_iterator("/proc/driver/nvidia/gpus", none)) {
    json["gpu"] = proc_value((gpu.path() / "information").c_str(), "Model");
  }
  json["workers"] = config.workers;
  json["threads_per_worker"] = threads_per_worker(config);
  json["processes_per_trial"] = config.processes_per_trial;
  return json;
}

}  // namespace einforge::search
