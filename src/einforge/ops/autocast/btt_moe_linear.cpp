#include "einforge/ops/btt_moe_linear.h"

#include <ATen/autocast_mode.h>
#include <torch/library.h>

namespace einforge::ops {
namespace {

using torch::Tensor;

// The gates stay as wide as they come.
template <c10::DeviceType kDevice, c10::DispatchKey kKey>
Tensor forward(
    const Tensor& x,
    const Tensor& core_a,
    const Tensor& core_b,
    const Tensor& experts,
    const Tensor& gates) {
  const c10::impl::ExcludeDispatchKeyGuard guard(kKey);
  const auto dtype = at::autocast::get_autocast_dtype(kDevice);
  const auto cast = [&](const Tensor& tensor) {
    return at::autocast::cached_cast(dtype, tensor, kDevice);
  };
  return btt_moe_linear(cast(x), cast(core_a), cast(core_b), experts, gates);
}

}  // namespace

TORCH_LIBRARY_IMPL(einforge, AutocastCPU, m) {
  m.impl(
      "btt_moe_linear",
      forward<c10::DeviceType::CPU, c10::DispatchKey::AutocastCPU>);
}

TORCH_LIBRARY_IMPL(einforge, AutocastCUDA, m) {
  m.impl(
      "btt_moe_linear",
      forward<c10::DeviceType::CUDA, c10::DispatchKey::AutocastCUDA>);
}

}  // namespace einforge::ops
