#include "einforge/search/hardware.h"

#include <sched.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>

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

int threads_per_worker(std::int64_t workers) {
  return std::max(1, available_cores() / static_cast<int>(workers));
}

base::Json describe_hardware(std::int64_t workers) {
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
  json["workers"] = workers;
  json["threads_per_worker"] = threads_per_worker(workers);
  return json;
}

}  // namespace einforge::search
