#pragma once

#include "einforge/ops/kernel_table.h"

// The layer by the dense matrix that its cores make,
//
//   w[(d,e,f),(a,b,g)] = sum_r B[b,g,e,f,r] A[a,g,d,f,r]
//
// which takes what a dense layer takes and little more, however large rho.
// EINFORGE_KERNEL=merged asks for it everywhere: einsum_linear makes the matrix
// in each call, a network in inference keeps it (nn::EinsumLinear).
namespace einforge::ops {

// "merged": makes the matrix anew in each pass; its gradient goes back to the
// cores. Any sizes, dtype and device, for at least as many tokens as the
// matrix has rows or columns: for fewer, the matrix is larger than what goes
// through it.
EinsumLinearKernel merged_kernel();

// Whether, without gradients, one product with a matrix that is kept takes less
// time than einsum_linear: for layers so small or tokens so few that launches
// bind. Measured once on CUDA (cuda/btt_tuner.h) for each power of two of
// tokens, and remembered, so that a layer's answers do not change from run to
// run. False on the CPU, whose kernel reads fewer weights than that product,
// and wherever nothing may be measured. EINFORGE_KERNEL=merged makes it true,
// any other kernel false.
bool merged_is_faster(const EinsumLinearProblem& problem);

}  // namespace einforge::ops
