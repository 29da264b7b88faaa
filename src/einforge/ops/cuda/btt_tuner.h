#pragma once

#include "einforge/kernels/cuda/btt_linear.h"
#include "einforge/ops/kernel_table.h"

// Choices that are measured once, for each problem on each kind of device,
// and then remembered: in memory, and in ${EINFORGE_CACHE_DIR:-~/.cache/
// einforge}/cuda_choices.json under a key of the kernels' version, the device
// and the versions of CUDA and torch. Tokens count in powers of two.
//
// Nothing is measured while a CUDA graph is captured or with
// EINFORGE_AUTOTUNE=0: then the first plan and the fused kernel are taken, and
// nothing is remembered. EINFORGE_LOG_KERNELS=1 prints what was measured.
namespace einforge::ops {

// Of the current device, read once.
const kernels::cuda::DeviceLimits& device_limits();

// The fastest of btt_plans(), which must not be empty.
kernels::cuda::BttPlan fastest_plan(
    const kernels::cuda::BttSizes& sizes, std::int64_t tokens);

// Whether `fused` takes less time than `fallback`; both support the problem.
bool fused_is_faster(
    const EinsumLinearProblem& problem,
    const EinsumLinearKernel& fused,
    const EinsumLinearKernel& fallback);

}  // namespace einforge::ops
