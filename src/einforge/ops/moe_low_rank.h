#pragma once

#include "einforge/ops/btt_moe_table.h"

namespace einforge::ops {

// The row "grouped", for experts that are low-rank pairs of matrices (n_gamma,
// n_phi and the uncontracted sizes 1): all experts' rows by torch's grouped
// matmul, one for each of the two matrices. On CUDA bfloat16 on sm_90 and
// widths and ranks that are multiples of 8, where nothing goes through the
// host; on the CPU anything, expert by expert.
//
// Takes, beside the output, k rows of x and of the output a token (backward:
// of x twice).
BttMoeKernel moe_low_rank_kernel();

}  // namespace einforge::ops
