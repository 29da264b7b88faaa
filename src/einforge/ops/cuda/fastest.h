#pragma once

#include <string_view>

#include "einforge/ops/kernel_table.h"

// Choices among kernels that are measured (btt_tuner.h says how).
namespace einforge::ops {

// Whether this row of cuda_kernels(), which supports the problem, takes the
// least time of all that do.
bool is_fastest(const EinsumLinearProblem& problem, std::string_view kernel);

// Whether one product with the layer's dense matrix, computed beforehand, takes
// less time than the fastest kernel; false where that is not known.
bool merged_is_fastest(const EinsumLinearProblem& problem);

}  // namespace einforge::ops
