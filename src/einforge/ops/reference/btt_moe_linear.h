#pragma once

#include "einforge/ops/btt_moe_table.h"

namespace einforge::ops {

// The last row of every table, "bmm": the pairs of a token and an expert, by
// expert, in blocks of equally many that share one expert, so that batched
// matmuls do them without anyone knowing on the host how many each expert has.
// The last block of each expert is filled up with zeros: T k + E rows at most
// for each row of a block are computed, of which T k are needed. Memory is
// that of k outputs a token and of a bounded number of blocks. Any sizes,
// dtype and device.
BttMoeKernel moe_bmm_kernel();

}  // namespace einforge::ops
