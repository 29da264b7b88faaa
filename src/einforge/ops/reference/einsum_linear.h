#pragma once

#include "einforge/ops/kernel_table.h"

namespace einforge::ops {

// The last row of every table: two batched matmuls with the permutations
// between them done in memory. Any sizes, dtype and device.
EinsumLinearKernel bmm_kernel();

}  // namespace einforge::ops
