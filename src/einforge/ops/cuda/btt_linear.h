#pragma once

#include "einforge/ops/kernel_table.h"

namespace einforge::ops {

// The row "fused": both stages of a block-tensor-train layer (one core
// contracted over alpha, the other over gamma and rho; beta = delta = 1, or
// alpha = epsilon = 1 with the cores exchanged) in one kernel. bfloat16,
// sizes that the kernel's tiles divide (kernels/cuda/btt_linear.h).
//
// Backward: nothing but x and the cores is saved. Where kernels/cuda/
// btt_backward.h takes the sizes, z and dz stay on chip, and the memory on top
// of the gradients is the partial sums of both cores. Elsewhere dz and z are
// written one after the other in memory (n = tokens n_gamma n_phi n_rho
// bfloat16 elements each). All sums over tokens are in a fixed order.
// docs/design/btt_backward.md has the bytes.
EinsumLinearKernel fused_btt_kernel();

// The row "two_pass": a block-tensor-train layer of any size as two batched
// products with z in memory between them, bfloat16, by kernels that are
// compiled for the layer's sizes when they are first needed (kernels/jit/).
// Backward, z and dz are made again and lie in memory one after the other.
// docs/design/plans.md has the bytes.
EinsumLinearKernel two_pass_btt_kernel();

}  // namespace einforge::ops
