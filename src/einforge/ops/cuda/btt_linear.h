#pragma once

#include "einforge/ops/kernel_table.h"

namespace einforge::ops {

// The row "fused": both stages of a block-tensor-train layer (one core
// contracted over alpha, the other over gamma and rho; beta = delta = 1, or
// alpha = epsilon = 1 with the cores exchanged) in one kernel. bfloat16,
// sizes that the kernel's tiles divide (kernels/cuda/btt_linear.h).
//
// Backward, with n = tokens n_gamma n_phi n_rho elements of z:
//   dz, dx from dy by the transposed kernel; z from x by the forward kernel;
//   both core gradients by sums over tokens, in a fixed order.
//   Memory: z and dz, 2 n bfloat16, and the partial sums of one core; nothing
//   is saved between the passes. Traffic, in elements: 2 x, 2 dy, dx once,
//   4 n.
EinsumLinearKernel fused_btt_kernel();

}  // namespace einforge::ops
