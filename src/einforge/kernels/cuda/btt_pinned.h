#pragma once

#include "einforge/kernels/cuda/btt_linear.h"
#include "einforge/kernels/cuda/routed_rows.h"

// The host side of the pinned kernels (sm_90), behind btt_linear.h.
namespace einforge::kernels::cuda {

// Blocks of a cluster for these sizes; 0 where there is no such kernel.
[[nodiscard]] int pinned_cluster(const BttSizes& sizes);

[[nodiscard]] bool pinned_supports(
    const BttSizes& sizes, const BttPlan& plan, const DeviceLimits& limits);

[[nodiscard]] size_t pinned_shared_bytes(const BttSizes& sizes);

[[nodiscard]] cudaError_t pinned_forward(
    const BttSizes& sizes,
    const BttLaunch& launch,
    const DeviceLimits& limits,
    bool after_pack,
    cudaStream_t stream);

// One row of x for each pair of a token and one of its experts, and one row of
// y for each pair; launch.tokens are those of x, and y has rows.pairs rows.
// There is no bias and no z.
[[nodiscard]] bool pinned_routed_supports(
    const BttSizes& sizes, const DeviceLimits& limits);

[[nodiscard]] cudaError_t pinned_routed_forward(
    const BttSizes& sizes,
    const BttLaunch& launch,
    const RoutedRows& rows,
    const DeviceLimits& limits,
    cudaStream_t stream);

}  // namespace einforge::kernels::cuda
