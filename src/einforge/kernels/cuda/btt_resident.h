#pragma once

#include "einforge/kernels/cuda/btt_linear.h"
#include "einforge/kernels/cuda/routed_rows.h"

// The host side of the register-resident kernels (sm_90), behind btt_linear.h.
namespace einforge::kernels::cuda {

// Blocks of a cluster for these sizes; 0 where there is no such kernel.
[[nodiscard]] int resident_cluster(const BttSizes& sizes);

// The sizes of the kernel for these; the same where there is no such kernel.
[[nodiscard]] BttSizes resident_sizes(const BttSizes& sizes);

[[nodiscard]] bool resident_supports(
    const BttSizes& sizes, const BttPlan& plan, const DeviceLimits& limits);

[[nodiscard]] size_t resident_shared_bytes(const BttSizes& sizes);

[[nodiscard]] cudaError_t resident_forward(
    const BttSizes& sizes,
    const BttLaunch& launch,
    const DeviceLimits& limits,
    bool after_pack,
    cudaStream_t stream);

// One row of x for each pair of a token and one of its experts; launch.tokens
// are those of x. There is no z.
[[nodiscard]] bool resident_routed_supports(
    const BttSizes& sizes, const DeviceLimits& limits);

// y has a row for each pair, in the order of the pairs; no bias.
[[nodiscard]] cudaError_t resident_routed_rows(
    const BttSizes& sizes,
    const BttLaunch& launch,
    const RoutedRows& rows,
    const DeviceLimits& limits,
    cudaStream_t stream);

// y has a row for each token: the sum over its pairs, each times its gate, and
// the bias. The rows of each slot of the tokens come in a kernel of their own,
// which adds to what the ones before wrote: there are as many roundings to
// bfloat16 as experts of a token, and always in the same order.
//
// @param rows with a bin for every slot
// @param gates (rows.pairs), in the order of rows.order
[[nodiscard]] cudaError_t resident_routed_mixture(
    const BttSizes& sizes,
    const BttLaunch& launch,
    const RoutedRows& rows,
    const float* gates,
    const DeviceLimits& limits,
    cudaStream_t stream);

}  // namespace einforge::kernels::cuda
