#pragma once

#include <string>

#include "einforge/kernels/cuda/two_pass/plan.h"
#include "einforge/kernels/jit/kernel_cache.h"

// Kernels that are compiled for a layer's sizes when they are first needed, on
// the current device.
namespace einforge::ops {

// In ${EINFORGE_CACHE_DIR:-~/.cache/einforge}/kernels.
kernels::jit::KernelCache& jit_kernels();

// "sm_90a"; the suffix allows an architecture's own instructions.
std::string jit_architecture();

kernels::cuda::two_pass::Device plan_device();

}  // namespace einforge::ops
