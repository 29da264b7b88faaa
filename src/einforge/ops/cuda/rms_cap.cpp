#include "einforge/ops/cuda/rms_cap.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "einforge/kernels/cuda/rms_cap.h"
#include "einforge/ops/cuda/btt_operands.h"
#include "einforge/ops/cuda/device.h"

namespace einforge::ops::fused {
namespace {

namespace ek = kernels::cuda;
using torch::Tensor;

ek::RmsCapLaunch launch_of(
    const Tensor& core,
    const std::optional<Tensor>& gain,
    double max_rms,
    const Tensor& workspace) {
  return {
      .core = core.const_data_ptr<float>(),
      .size = core.numel(),
      .gain = gain ? gain->const_data_ptr<float>() : nullptr,
      .max_rms = max_rms,
      .workspace = workspace.mutable_data_ptr()};
}

}  // namespace

bool takes_rms_cap(
    const Tensor& core,
    const std::optional<Tensor>& gain,
    torch::ScalarType dtype) {
  return architecture_supported(core) &&
         core.scalar_type() == torch::kFloat32 && core.numel() > 0 &&
         core.is_non_overlapping_and_dense() &&
         (!gain || (gain->scalar_type() == torch::kFloat32 &&
                    gain->device() == core.device())) &&
         (dtype == torch::kFloat32 || dtype == torch::kBFloat16);
}

Tensor rms_cap(
    const Tensor& given,
    const std::optional<Tensor>& gain,
    double max_rms,
    torch::ScalarType dtype) {
  const c10::cuda::CUDAGuard guard(given.device());
  const auto stream = c10::cuda::getCurrentCUDAStream();
  const Tensor core = btt::aligned(given);
  const Tensor partials = btt::workspace(core, ek::rms_cap_bytes());
  const ek::RmsCapLaunch launch = launch_of(core, gain, max_rms, partials);
  Tensor y = torch::empty_like(core, core.options().dtype(dtype));
  C10_CUDA_CHECK(
      dtype == torch::kFloat32
          ? ek::rms_cap(launch, y.mutable_data_ptr<float>(), stream)
          : ek::rms_cap(launch, btt::mutable_data(y), stream));
  return y;
}

std::tuple<Tensor, Tensor> rms_cap_backward(
    const Tensor& given_grad,
    const Tensor& given,
    const std::optional<Tensor>& gain,
    double max_rms) {
  const c10::cuda::CUDAGuard guard(given.device());
  const auto stream = c10::cuda::getCurrentCUDAStream();
  const Tensor core = btt::aligned(given);
  Tensor grad = btt::aligned(given_grad);
  if (grad.strides() != core.strides()) {
    grad = torch::empty_like(core, grad.options()).copy_(grad);
  }
  const Tensor partials = btt::workspace(core, ek::rms_cap_bytes());
  const ek::RmsCapLaunch launch = launch_of(core, gain, max_rms, partials);
  Tensor grad_core = torch::empty_like(core);
  Tensor grad_gain = gain ? torch::empty_like(*gain) : core.new_empty({0});
  auto* dcore = grad_core.mutable_data_ptr<float>();
  auto* dgain = gain ? grad_gain.mutable_data_ptr<float>() : nullptr;
  C10_CUDA_CHECK(
      grad.scalar_type() == torch::kFloat32
          ? ek::rms_cap_backward(
                launch, grad.const_data_ptr<float>(), dcore, dgain, stream)
          : ek::rms_cap_backward(
                launch, btt::data(grad), dcore, dgain, stream));
  return {grad_core, grad_gain};
}

}  // namespace einforge::ops::fused
