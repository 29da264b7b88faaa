#include "einforge/ops/rms_cap.h"

#include <torch/library.h>

namespace einforge::ops {
namespace {

using torch::Tensor;

void check_rms_cap(const std::optional<Tensor>& gamma, double max_rms) {
  TORCH_CHECK(max_rms > 0, "[rms_cap] expected max_rms above 0; got ", max_rms);
  TORCH_CHECK(
      !gamma || gamma->numel() == 1,
      "[rms_cap] expected gamma of one element; got size ",
      gamma ? gamma->sizes() : c10::IntArrayRef{});
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

Tensor forward(
    const Tensor& core, const std::optional<Tensor>& gamma, double max_rms) {
  check_rms_cap(gamma, max_rms);
  Tensor scale = Cap(widened(core), max_rms).scale;
  if (gamma) {
    scale = scale * widened(*gamma).view(c10::IntArrayRef{});
  }
  return core * scale;
}

// With s = 1 / max(1, rms / max_rms) and n elements:
//   d core  = gamma s (grad - [rms > max_rms] core (grad . core) / (n rms^2))
//   d gamma = s (grad . core)
std::tuple<Tensor, Tensor> backward(
    const Tensor& grad,
    const Tensor& core,
    const std::optional<Tensor>& gamma,
    double max_rms) {
  check_rms_cap(gamma, max_rms);
  const Tensor wide = widened(core);
  const Cap cap(wide, max_rms);
  const Tensor dot = (widened(grad) * wide).sum();
  const Tensor gain =
      gamma ? cap.scale * widened(*gamma).view(c10::IntArrayRef{}) : cap.scale;
  // Zero, not 0 / 0, for a core of zeros.
  const Tensor square = cap.rms.square() * static_cast<double>(core.numel());
  const Tensor along = torch::where(
      cap.rms > max_rms, -gain * dot / square, torch::zeros_like(dot));
  // Keeps the core's strides, as meta says.
  Tensor grad_core = torch::empty_like(core);
  torch::addcmul_out(grad_core, grad * gain, core, along.to(core.dtype()));
  return {
      grad_core,
      gamma ? (dot * cap.scale).to(gamma->scalar_type()).view(gamma->sizes())
            : core.new_empty({0})};
}

Tensor forward_meta(
    const Tensor& core, const std::optional<Tensor>& gamma, double max_rms) {
  check_rms_cap(gamma, max_rms);
  return torch::empty_like(core);
}

std::tuple<Tensor, Tensor> backward_meta(
    const Tensor& grad,
    const Tensor& core,
    const std::optional<Tensor>& gamma,
    double max_rms) {
  check_rms_cap(gamma, max_rms);
  return {
      torch::empty_like(core),
      gamma ? torch::empty_like(*gamma) : grad.new_empty({0})};
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
    const Tensor& core, const std::optional<Tensor>& gamma, double max_rms) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("einforge::rms_cap", "")
                             .typed<decltype(rms_cap)>();
  return op.call(core, gamma, max_rms);
}

std::tuple<Tensor, Tensor> rms_cap_backward(
    const Tensor& grad,
    const Tensor& core,
    const std::optional<Tensor>& gamma,
    double max_rms) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("einforge::rms_cap_backward", "")
          .typed<decltype(rms_cap_backward)>();
  return op.call(grad, core, gamma, max_rms);
}

}  // namespace einforge::ops
