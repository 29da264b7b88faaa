#include "einforge/ops/kernel_choice.h"

#include <c10/util/Exception.h>
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <mutex>
#include <utility>

#include "einforge/base/console.h"
#include "einforge/ops/kernel_table.h"

namespace einforge::ops {
namespace {

// The names that a ChosenKernels collects, while one lives.
struct Collection {
  std::atomic<bool> is_on = false;
  std::mutex mutex;
  std::vector<std::string> names;
};

Collection& collection() {
  static Collection all;
  return all;
}

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

}  // namespace

std::string& forced_kernel() {
  static std::string name = environment("EINFORGE_KERNEL");
  return name;
}

namespace internal {

bool logging() {
  static const bool on = environment("EINFORGE_LOG_KERNELS") == "1";
  return on;
}

bool collecting() {
  return collection().is_on;
}

void collect_choice(std::string_view kernel) {
  Collection& all = collection();
  const std::lock_guard lock(all.mutex);
  if (std::ranges::find(all.names, kernel) == all.names.end()) {
    all.names.emplace_back(kernel);
  }
}

void log_choice(const std::string& problem, std::string_view kernel) {
  base::note("einforge: {}: {}\n", problem, kernel);
}

void refuse_forced_kernel(
    std::string_view op, const std::string& known, const std::string& problem) {
  TORCH_CHECK(
      false,
      "[",
      op,
      "] expected EINFORGE_KERNEL to be one of ",
      known,
      " for ",
      problem,
      "; got ",
      forced_kernel());
}

}  // namespace internal

ChosenKernels::ChosenKernels() {
  Collection& all = collection();
  const std::lock_guard lock(all.mutex);
  all.names.clear();
  all.is_on = true;
}

ChosenKernels::~ChosenKernels() {
  collection().is_on = false;
}

std::vector<std::string> ChosenKernels::names() const {
  Collection& all = collection();
  const std::lock_guard lock(all.mutex);
  return all.names;
}

ForcedKernel::ForcedKernel(std::string name)
    : previous_(std::exchange(forced_kernel(), std::move(name))) {}

ForcedKernel::~ForcedKernel() {
  forced_kernel() = std::move(previous_);
}

}  // namespace einforge::ops
