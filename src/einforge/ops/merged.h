#pragma once

#include "einforge/ops/kernel_table.h"

namespace einforge::ops {

// Whether, without gradients, one product with the layer's dense matrix takes
// less time than einsum_linear: for layers so small or tokens so few that
// launches bind. Measured once on CUDA (cuda/btt_tuner.h) for each power of two
// of tokens, and remembered, so that a layer's answers do not change from run
// to run. False on the CPU, whose kernel reads fewer weights than that product,
// and wherever nothing may be measured. EINFORGE_KERNEL=merged makes it true,
// any other kernel false.
bool merged_is_faster(const EinsumLinearProblem& problem);

}  // namespace einforge::ops
