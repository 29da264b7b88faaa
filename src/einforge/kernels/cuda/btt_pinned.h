#pragma once

#include "einforge/kernels/cuda/btt_linear.h"

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
    const BttPlan& plan,
    const DeviceLimits& limits,
    bool after_pack,
    cudaStream_t stream);

}  // namespace einforge::kernels::cuda
