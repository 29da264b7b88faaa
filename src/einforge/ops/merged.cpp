#include "einforge/ops/merged.h"

#include "einforge/ops/kernel_choice.h"
#ifdef EINFORGE_HAVE_CUDA
#include "einforge/ops/cuda/btt_tuner.h"
#endif

namespace einforge::ops {

bool merged_is_faster([[maybe_unused]] const EinsumLinearProblem& problem) {
  if (!forced_kernel().empty()) {
    return forced_kernel() == "merged";
  }
#ifdef EINFORGE_HAVE_CUDA
  if (problem.device == torch::DeviceType::CUDA && problem.tokens > 0) {
    return merged_is_fastest(problem);
  }
#endif
  return false;
}

}  // namespace einforge::ops
