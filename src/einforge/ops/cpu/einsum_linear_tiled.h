#pragma once

#include "einforge/ops/kernel_table.h"

namespace einforge::ops {

// "cpu_tiled": kernels/cpu/einsum_linear.h. Any sizes, float32.
EinsumLinearKernel cpu_tiled_kernel();

}  // namespace einforge::ops
