#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "einforge/kernels/cuda/btt_linear.h"
#include "einforge/kernels/cuda/fused_ffn/params.h"
#include "einforge/kernels/cuda/two_pass.h"

// A feed-forward network of two block-tensor-train layers with a GELU between,
// both passes; docs/design/fused_ffn.md.
namespace einforge::kernels::cuda::fused_ffn {

[[nodiscard]] size_t packed_bytes(const FfnShape& shape);
[[nodiscard]] size_t packed_bytes(const MiddleShape& shape);

// Writes the cores of both layers, and the bias (hidden, middle) of the first
// or null, in the order of a kernel's fragments.
[[nodiscard]] cudaError_t pack(
    const FfnShape& shape,
    const BttCores& first,
    const BttCores& second,
    const __nv_bfloat16* bias1,
    void* packed,
    cudaStream_t stream);
[[nodiscard]] cudaError_t pack(
    const MiddleShape& shape,
    const BttCores& first,
    const BttCores& second,
    const __nv_bfloat16* bias1,
    void* packed,
    cudaStream_t stream);

// y = FFN(x), by a kernel that was compiled from source_of().
[[nodiscard]] cudaError_t launch(
    const two_pass::LoadedKernel& kernel,
    const FfnShape& shape,
    const FfnParams& params,
    const DeviceLimits& limits,
    cudaStream_t stream);

// How many parts of the tokens have sums of their own.
[[nodiscard]] int splits_of(
    const MiddleShape& shape, int64_t tokens, const DeviceLimits& limits);

[[nodiscard]] cudaError_t launch(
    const two_pass::LoadedKernel& kernel,
    const MiddleShape& shape,
    const MiddleParams& params,
    cudaStream_t stream);

// The gradient (hidden, middle) of bias1 from MiddleParams::dbias1.
[[nodiscard]] cudaError_t sum_bias_gradient(
    const MiddleShape& shape,
    const float* sums,
    int splits,
    __nv_bfloat16* grad,
    cudaStream_t stream);

}  // namespace einforge::kernels::cuda::fused_ffn
