#include "einforge/ops/rms_cap.h"

#include <ATen/autocast_mode.h>
#include <torch/library.h>

namespace einforge::ops {
namespace {

using torch::Tensor;

// The root mean square is that of the core as it is; what layers will read is
// rounded once. As cached_cast does, leaves double alone.
template <c10::DeviceType kDevice, c10::DispatchKey kKey>
Tensor forward(
    const Tensor& core,
    const std::optional<Tensor>& gain,
    double max_rms,
    std::optional<torch::ScalarType> dtype) {
  const c10::impl::ExcludeDispatchKeyGuard guard(kKey);
  if (!dtype && core.scalar_type() != torch::kFloat64) {
    dtype = at::autocast::get_autocast_dtype(kDevice);
  }
  return rms_cap(core, gain, max_rms, dtype);
}

}  // namespace

TORCH_LIBRARY_IMPL(einforge, AutocastCPU, m) {
  m.impl(
      "rms_cap", forward<c10::DeviceType::CPU, c10::DispatchKey::AutocastCPU>);
}

TORCH_LIBRARY_IMPL(einforge, AutocastCUDA, m) {
  m.impl(
      "rms_cap",
      forward<c10::DeviceType::CUDA, c10::DispatchKey::AutocastCUDA>);
}

}  // namespace einforge::ops
