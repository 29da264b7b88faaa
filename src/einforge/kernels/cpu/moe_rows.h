#pragma once

#include <cstdint>

// What becomes of the rows that the k experts of each token give, (tokens, k,
// features), on the CPU in float32. The caller brings threads: calls are for
// some of the tokens.
namespace einforge::kernels::cpu {

// y[t] = sum_j gates[t,j] rows[t,j]
void moe_combine(
    const float* rows,
    const float* gates,
    std::int64_t tokens,
    std::int64_t active,
    std::int64_t features,
    float* y);

// grad[t,j] = rows[t,j] . x[t]
void moe_gate_gradient(
    const float* rows,
    const float* x,
    std::int64_t tokens,
    std::int64_t active,
    std::int64_t features,
    float* grad);

}  // namespace einforge::kernels::cpu
