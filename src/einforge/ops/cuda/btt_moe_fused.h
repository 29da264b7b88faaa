#pragma once

#include "einforge/ops/btt_moe_table.h"

namespace einforge::ops {

// Mixtures of BTT experts of rank 1 at the sizes that the pinned kernels take,
// bfloat16 on sm_90: tokens are sorted by expert on the device, rows are
// gathered and scattered by the copy engine, both stages stay on chip. On top
// of the output it takes a row of it for each pair of a token and an expert
// (backward: of the input), and both cores in float32 for each split of the
// tokens and for each expert. docs/design/btt_moe_kernels.md has the bytes.
BttMoeKernel fused_moe_kernel();

}  // namespace einforge::ops
