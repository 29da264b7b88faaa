#pragma once

#include <span>
#include <string>
#include <string_view>

namespace einforge::ops {

// What EINFORGE_KERNEL or a ForcedKernel names; empty for a free choice.
std::string& forced_kernel();

namespace internal {
bool logging();
void log_choice(const std::string& problem, std::string_view kernel);
[[noreturn]] void refuse_forced_kernel(
    std::string_view op, const std::string& known, const std::string& problem);
}  // namespace internal

// The first row that supports and prefers the problem, or the one that is
// forced by name. A row has `name`, `supports` and `preferred` as
// EinsumLinearKernel has; a problem has to_string().
//
// @throw c10::Error when a kernel is forced that the table lacks or that does
//   not support the problem
template <typename Kernel, typename Problem>
const Kernel& choose_row(
    std::string_view op,
    std::span<const Kernel> table,
    const Problem& problem) {
  const std::string& forced = forced_kernel();
  std::string known;
  for (const Kernel& kernel : table) {
    if (!kernel.supports(problem)) {
      continue;
    }
    if (forced.empty()
            ? kernel.preferred == nullptr || kernel.preferred(problem)
            : kernel.name == forced) {
      if (internal::logging()) {
        internal::log_choice(problem.to_string(), kernel.name);
      }
      return kernel;
    }
    known += known.empty() ? "" : ", ";
    known += kernel.name;
  }
  internal::refuse_forced_kernel(op, known, problem.to_string());
}

}  // namespace einforge::ops
