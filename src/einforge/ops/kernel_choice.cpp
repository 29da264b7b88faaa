#include "einforge/ops/kernel_choice.h"

#include <c10/util/Exception.h>
#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>
#include <utility>

#include "einforge/ops/kernel_table.h"

namespace einforge::ops {
namespace {

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

void log_choice(const std::string& problem, std::string_view kernel) {
  fmt::print(stderr, "einforge: {}: {}\n", problem, kernel);
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

ForcedKernel::ForcedKernel(std::string name)
    : previous_(std::exchange(forced_kernel(), std::move(name))) {}

ForcedKernel::~ForcedKernel() {
  forced_kernel() = std::move(previous_);
}

}  // namespace einforge::ops
