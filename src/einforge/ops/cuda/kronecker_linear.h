#pragma once

#include "einforge/ops/kernel_table.h"

namespace einforge::ops {

// The row "kronecker": layers with gamma = phi = 1 (Kronecker, Tensor-Train) in
// one kernel, bfloat16, of sizes that kernels/cuda/kronecker.h has. z stays in
// registers; x and y move through memory once.
//
// Backward: nothing but x and the cores is saved. dx is the transposed layer;
// both core gradients come of one kernel that reads x and dy, and the memory on
// top of them is its partial sums, which are added in a fixed order.
// docs/design/matmul_plans.md has the bytes.
EinsumLinearKernel kronecker_kernel();

}  // namespace einforge::ops
