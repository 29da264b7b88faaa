#pragma once

#include "einforge/ops/kernel_table.h"

namespace einforge::ops {

// Batched matmuls whose results lie in memory as the next one reads them: any
// sizes and dtype, no copy of z. Only x, y and their gradients are permuted,
// and where gamma = phi = 1 (Kronecker, Tensor-Train, low rank) not even
// those.
EinsumLinearKernel strided_kernel();

}  // namespace einforge::ops
