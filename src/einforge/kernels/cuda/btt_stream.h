#pragma once

#include "einforge/kernels/cuda/btt_linear.h"

// The host side of the stream kernels (sm_90), behind btt_linear.h.
namespace einforge::kernels::cuda {

[[nodiscard]] bool stream_supports(
    const BttSizes& sizes, const BttPlan& plan, const DeviceLimits& limits);

[[nodiscard]] size_t stream_shared_bytes(
    const BttSizes& sizes, const BttPlan& plan, const DeviceLimits& limits);

[[nodiscard]] cudaError_t stream_forward(
    const BttSizes& sizes,
    const BttLaunch& launch,
    const BttPlan& plan,
    const DeviceLimits& limits,
    bool after_pack,
    cudaStream_t stream);

}  // namespace einforge::kernels::cuda
