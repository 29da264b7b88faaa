#pragma once

#include "einforge/ops/kernel_table.h"

namespace einforge::ops {

// "cpu_tiled": kernels/cpu/btt_linear.h. The BTT family in float32, any sizes.
EinsumLinearKernel cpu_tiled_kernel();

}  // namespace einforge::ops
