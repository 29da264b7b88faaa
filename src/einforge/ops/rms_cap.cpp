#include "einforge/ops/rms_cap.h"

#include <torch/library.h>

#ifdef EINFORGE_HAVE_CUDA
#include <c10/cuda/CUDAGuard.h>

#include "einforge/kernels/cuda/rms_cap.h"
#include "einforge/ops/cuda/btt_operands.h"
#endif

namespace einforge::ops {
namespace {

using torch::Tensor;

void check_rms_cap(const std::optional<Tensor>& gain, double max_rms) {
  TORCH_CHECK(max_rms > 0, "[rms_cap] expected max_rms above 0; got ", max_rms);
  TORCH_CHECK(
      !gain || gain->numel() == 1,
      "[rms_cap] expected gain of one element; got size ",
      gain ? gain->sizes() : c10::IntArrayRef{});
}

// Wide enough to sum squares in.
Tensor widened(const Tensor& tensor) {
  return tensor.scalar_type() == torch::kFloat64 ? tensor
                                                 : tensor.to(torch::kFloat32);
}

// All results keep to the device, as tensors without dimensions.
struct Cap {
  Tensor rms;
  Tensor scale;  // 1 / max(1, rms / max_rms)

  Cap(const Tensor& core, double max_rms)
      : rms(torch::linalg_vector_norm(core, 2) *
            (1 / std::sqrt(static_cast<double>(core.numel())))),
        scale((rms * (1 / max_rms)).clamp_min(1).reciprocal()) {}
};

#ifdef EINFORGE_HAVE_CUDA
namespace ek = kernels::cuda;

// What kernels that walk memory take.
bool is_fused(
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

ek::RmsCapLaunch launch_of(
    const Tensor& core,
    const std::optional<Tensor>& gain,
    double max_rms,
    const Tensor& workspace) {
  return {
      .core = core.const_data_ptr<float>(),
      .size = core.numel(),
      .gain = gain ? gain->const_data_ptr<float>() : nullptr,
      .max_rms = static_cast<float>(max_rms),
      .workspace = workspace.mutable_data_ptr()};
}

Tensor fused_forward(
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

std::tuple<Tensor, Tensor> fused_backward(
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
#endif

Tensor forward(
    const Tensor& core,
    const std::optional<Tensor>& gain,
    double max_rms,
    std::optional<torch::ScalarType> dtype) {
  check_rms_cap(gain, max_rms);
  const torch::ScalarType result = dtype.value_or(core.scalar_type());
#ifdef EINFORGE_HAVE_CUDA
  if (is_fused(core, gain, result)) {
    return fused_forward(core, gain, max_rms, result);
  }
#endif
  Tensor scale = Cap(widened(core), max_rms).scale;
  if (gain) {
    scale = scale * widened(*gain).view(c10::IntArrayRef{});
  }
  return (core * scale).to(result);
}

// With s = 1 / max(1, rms / max_rms) and n elements:
//   d core  = gain s (grad - [rms > max_rms] core (grad . core) / (n rms^2))
//   d gain  = s (grad . core)
std::tuple<Tensor, Tensor> backward(
    const Tensor& given_grad,
    const Tensor& core,
    const std::optional<Tensor>& gain,
    double max_rms) {
  check_rms_cap(gain, max_rms);
#ifdef EINFORGE_HAVE_CUDA
  if (is_fused(core, gain, given_grad.scalar_type())) {
    return fused_backward(given_grad, core, gain, max_rms);
  }
#endif
  const Tensor grad = given_grad.to(core.scalar_type());
  const Tensor wide = widened(core);
  const Cap cap(wide, max_rms);
  const Tensor dot = (widened(grad) * wide).sum();
  const Tensor factor =
      gain ? cap.scale * widened(*gain).view(c10::IntArrayRef{}) : cap.scale;
  // Zero, not 0 / 0, for a core of zeros.
  const Tensor square = cap.rms.square() * static_cast<double>(core.numel());
  const Tensor along = torch::where(
      cap.rms > max_rms, -factor * dot / square, torch::zeros_like(dot));
  // Keeps the core's strides, as meta says.
  Tensor grad_core = torch::empty_like(core);
  torch::addcmul_out(grad_core, grad * factor, core, along.to(core.dtype()));
  return {
      grad_core,
      gain ? (dot * cap.scale).to(gain->scalar_type()).view(gain->sizes())
           : core.new_empty({0})};
}

Tensor forward_meta(
    const Tensor& core,
    const std::optional<Tensor>& gain,
    double max_rms,
    std::optional<torch::ScalarType> dtype) {
  check_rms_cap(gain, max_rms);
  return torch::empty_like(
      core, core.options().dtype(dtype.value_or(core.scalar_type())));
}

std::tuple<Tensor, Tensor> backward_meta(
    const Tensor& /*grad*/,
    const Tensor& core,
    const std::optional<Tensor>& gain,
    double max_rms) {
  check_rms_cap(gain, max_rms);
  return {
      torch::empty_like(core),
      gain ? torch::empty_like(*gain) : core.new_empty({0})};
}

}  // namespace

TORCH_LIBRARY_IMPL(einforge, CPU, m) {
  m.impl("rms_cap", forward);
  m.impl("rms_cap_backward", backward);
}

TORCH_LIBRARY_IMPL(einforge, CUDA, m) {
  m.impl("rms_cap", forward);
  m.impl("rms_cap_backward", backward);
}

TORCH_LIBRARY_IMPL(einforge, Meta, m) {
  m.impl("rms_cap", forward_meta);
  m.impl("rms_cap_backward", backward_meta);
}

Tensor rms_cap(
    const Tensor& core,
    const std::optional<Tensor>& gain,
    double max_rms,
    std::optional<torch::ScalarType> dtype) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("einforge::rms_cap", "")
                             .typed<decltype(rms_cap)>();
  return op.call(core, gain, max_rms, dtype);
}

std::tuple<Tensor, Tensor> rms_cap_backward(
    const Tensor& grad,
    const Tensor& core,
    const std::optional<Tensor>& gain,
    double max_rms) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("einforge::rms_cap_backward", "")
          .typed<decltype(rms_cap_backward)>();
  return op.call(grad, core, gain, max_rms);
}

}  // namespace einforge::ops
