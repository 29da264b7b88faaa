#pragma once

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/types.h>

#include <cstddef>
#include <cstdint>

#include "einforge/kernels/cuda/btt_backward.h"
#include "einforge/kernels/cuda/btt_linear.h"
#include "einforge/ops/btt_sizes.h"
#include "einforge/ops/cuda/btt_tuner.h"

// Tensors as the block-tensor-train kernels take them.
namespace einforge::ops::btt {

inline const __nv_bfloat16* data(const torch::Tensor& tensor) {
  return static_cast<const __nv_bfloat16*>(tensor.const_data_ptr());
}

inline __nv_bfloat16* mutable_data(const torch::Tensor& tensor) {
  return static_cast<__nv_bfloat16*>(tensor.mutable_data_ptr());
}

inline torch::Tensor workspace(const torch::Tensor& like, std::size_t bytes) {
  return torch::empty(
      {static_cast<std::int64_t>(bytes)}, like.options().dtype(torch::kUInt8));
}

// The kernels read 16 bytes at a time; a slice may start anywhere.
inline torch::Tensor aligned(const torch::Tensor& tensor) {
  const auto address =
      reinterpret_cast<std::uintptr_t>(tensor.const_data_ptr());
  return address % 16 == 0 ? tensor : tensor.clone();
}

// As kernels read it that walk through memory; undefined stays so.
inline torch::Tensor dense(const torch::Tensor& tensor) {
  return tensor.defined() ? aligned(tensor.contiguous()) : tensor;
}

// A bias (d_out), or none, as a kernel of sizes `packed` takes it.
inline torch::Tensor padded_bias(
    const torch::Tensor& bias,
    const kernels::cuda::BttSizes& sizes,
    const kernels::cuda::BttSizes& packed) {
  if (!bias.defined() ||
      (packed.epsilon == sizes.epsilon && packed.phi == sizes.phi)) {
    return bias;
  }
  return torch::constant_pad_nd(
      bias.view({sizes.epsilon, sizes.phi}),
      {0, packed.phi - sizes.phi, 0, packed.epsilon - sizes.epsilon});
}

// A core is (.., in, gamma, out, phi, rho) with `out` of size 1 if it is
// contracted first, and `in` if second.
inline kernels::cuda::BttCores::Strides strides_of(
    const torch::Tensor& core, bool first) {
  return {
      .in = core.stride(first ? -5 : -3),
      .gamma = core.stride(-4),
      .phi = core.stride(-2),
      .rho = core.stride(-1)};
}

inline kernels::cuda::BttCores cores_of(
    const torch::Tensor& first, const torch::Tensor& second) {
  kernels::cuda::BttCores cores;
  cores.a = data(first);
  cores.b = data(second);
  cores.a_strides = strides_of(first, /*first=*/true);
  cores.b_strides = strides_of(second, /*first=*/false);
  return cores;
}

// The gradients of both cores, with z and dz on chip: `launch` lacks the
// operands, the workspace and the gradients, which this fills in.
inline void core_gradients(
    const kernels::cuda::BttSizes& sizes,
    const kernels::cuda::BttCores& cores,
    const torch::Tensor& x,
    const torch::Tensor& dy,
    const torch::Tensor& first_grad,
    const torch::Tensor& second_grad,
    kernels::cuda::BttBackwardLaunch launch = {}) {
  const kernels::cuda::DeviceLimits& limits = device_limits();
  launch.x = data(x);
  launch.dy = data(dy);
  launch.tokens = x.size(0);
  const kernels::cuda::BttBackwardSpace space =
      kernels::cuda::btt_backward_space(
          sizes,
          launch.gates == nullptr ? launch.tokens : launch.rows.pairs,
          launch.rows.experts,
          limits);
  const torch::Tensor partials = workspace(x, space.bytes);
  launch.splits = space.splits;
  launch.workspace = partials.mutable_data_ptr();
  launch.da = mutable_data(first_grad);
  launch.db = mutable_data(second_grad);
  launch.da_strides = strides_of(first_grad, /*first=*/true);
  launch.db_strides = strides_of(second_grad, /*first=*/false);
  C10_CUDA_CHECK(kernels::cuda::btt_backward(
      sizes, cores, launch, limits, c10::cuda::getCurrentCUDAStream()));
}

}  // namespace einforge::ops::btt
