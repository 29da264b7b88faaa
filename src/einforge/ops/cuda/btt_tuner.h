#pragma once

#include "einforge/kernels/cuda/btt_linear.h"
#include "einforge/ops/cuda/fastest.h"

// Choices that are measured once, for each problem on each kind of device,
// and then remembered: in memory, and in ${EINFORGE_CACHE_DIR:-~/.cache/
// einforge}/cuda_choices.json under a key of the kernels' version, the device
// and the versions of CUDA and torch. Tokens count in powers of two. A choice
// whose runs varied, as they do where another process works on the device,
// holds for the process that measured it; the next one measures again.
//
// Nothing is measured while a CUDA graph is captured, with EINFORGE_AUTOTUNE=0,
// or where memory is too short: then the first row of the table and the first
// plan are taken, and nothing is remembered. EINFORGE_LOG_KERNELS=1 prints what
// was measured.
namespace einforge::ops {

// Of the current device, read once.
const kernels::cuda::DeviceLimits& device_limits();

// The fastest of btt_plans(), which must not be empty.
kernels::cuda::BttPlan fastest_plan(
    const kernels::cuda::BttSizes& sizes, std::int64_t tokens);

}  // namespace einforge::ops
