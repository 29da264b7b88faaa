#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace einforge::ops {

// What EINFORGE_KERNEL or a ForcedKernel names; empty for a free choice.
std::string& forced_kernel();

// Collects the names of the kernels that operators choose while it lives, in
// the order of their first use, on any thread. One at a time.
class ChosenKernels {
 public:
  ChosenKernels();
  ChosenKernels(const ChosenKernels&) = delete;
  ChosenKernels& operator=(const ChosenKernels&) = delete;
  ~ChosenKernels();

  std::vector<std::string> names() const;
};

namespace internal {
// Logs a choice and adds it to the ChosenKernels that lives, where anybody
// asks: `problem`, called only then, says for what.
template <typename Problem>
void note_choice(std::string_view kernel, const Problem& problem);
bool logging();
bool collecting();
void log_choice(const std::string& problem, std::string_view kernel);
void collect_choice(std::string_view kernel);
[[noreturn]] void refuse_forced_kernel(
    std::string_view op, const std::string& known, const std::string& problem);
}  // namespace internal

template <typename Problem>
void internal::note_choice(std::string_view kernel, const Problem& problem) {
  if (logging()) {
    log_choice(problem(), kernel);
  }
  if (collecting()) {
    collect_choice(kernel);
  }
}

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
      internal::note_choice(kernel.name, [&] { return problem.to_string(); });
      return kernel;
    }
    known += known.empty() ? "" : ", ";
    known += kernel.name;
  }
  internal::refuse_forced_kernel(op, known, problem.to_string());
}

}  // namespace einforge::ops
