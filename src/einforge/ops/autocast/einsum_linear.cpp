#include "einforge/ops/einsum_linear.h"

#include <ATen/autocast_mode.h>
#include <torch/library.h>

namespace einforge::ops {
namespace {

using torch::Tensor;

template <c10::DeviceType kDevice, c10::DispatchKey kKey>
Tensor forward(
    const Tensor& x,
    const Tensor& core_a,
    const Tensor& core_b,
    const std::optional<Tensor>& bias) {
  const c10::impl::ExcludeDispatchKeyGuard guard(kKey);
  const auto dtype = at::autocast::get_autocast_dtype(kDevice);
  const auto cast = [&](const Tensor& tensor) {
    return at::autocast::cached_cast(dtype, tensor, kDevice);
  };
  return einsum_linear(
      cast(x),
      cast(core_a),
      cast(core_b),
      bias ? std::optional<Tensor>(cast(*bias)) : std::nullopt);
}

}  // namespace

TORCH_LIBRARY_IMPL(einforge, AutocastCPU, m) {
  m.impl(
      "einsum_linear",
      forward<c10::DeviceType::CPU, c10::DispatchKey::AutocastCPU>);
}

TORCH_LIBRARY_IMPL(einforge, AutocastCUDA, m) {
  m.impl(
      "einsum_linear",
      forward<c10::DeviceType::CUDA, c10::DispatchKey::AutocastCUDA>);
}

}  // namespace einforge::ops
