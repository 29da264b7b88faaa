#include "einforge/ops/rms_cap.h"

#include <torch/library.h>

#include "einforge/ops/cpu/rms_cap.h"
#include "einforge/ops/cuda/rms_cap.h"
#include "einforge/ops/size_text.h"

namespace einforge::ops {
namespace {

using torch::Tensor;

void check_rms_cap(const std::optional<Tensor>& gain, double max_rms) {
  TORCH_CHECK(max_rms > 0, "[rms_cap] expected max_rms above 0; got ", max_rms);
  TORCH_CHECK(
      !gain || gain->numel() == 1,
      "[rms_cap] expected gain of one element; got size ",
      size_text(gain->sizes()));
}

// All in float64, in which squares of float32 neither overflow nor underflow.
// All results keep to the device, as tensors without dimensions.
struct Cap {
  Tensor core;
  Tensor square;  // core . core
  Tensor excess;  // rms / max_rms
  Tensor s;       // 1 / max(1, excess)
  Tensor scale;   // the gain times s

  Cap(const Tensor& given, const std::optional<Tensor>& gain, double max_rms)
      : core(given.to(torch::kFloat64)),
        square(core.square().sum()),
        excess((square / static_cast<double>(core.numel())).sqrt() / max_rms),
        s(excess.clamp_min(1).reciprocal()),
        scale(
            gain ? s * gain->to(torch::kFloat64).view(c10::IntArrayRef{}) : s) {
  }
};

Tensor forward(
    const Tensor& core,
    const std::optional<Tensor>& gain,
    double max_rms,
    std::optional<torch::ScalarType> dtype) {
  check_rms_cap(gain, max_rms);
  const torch::ScalarType result = dtype.value_or(core.scalar_type());
  if (fused::takes_rms_cap(core, gain, result)) {
    return fused::rms_cap(core, gain, max_rms, result);
  }
  if (on_cpu::takes_rms_cap(core, gain, result)) {
    return on_cpu::rms_cap(core, gain, max_rms, result);
  }
  const Cap cap(core, gain, max_rms);
  return (cap.core * cap.scale).to(result);
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
  if (fused::takes_rms_cap(core, gain, given_grad.scalar_type())) {
    return fused::rms_cap_backward(given_grad, core, gain, max_rms);
  }
  if (on_cpu::takes_rms_cap(core, gain, given_grad.scalar_type())) {
    return on_cpu::rms_cap_backward(given_grad, core, gain, max_rms);
  }
  const Cap cap(core, gain, max_rms);
  const Tensor grad = given_grad.to(torch::kFloat64);
  const Tensor dot = (grad * cap.core).sum();
  // Zero, not 0 / 0, for a core of zeros.
  const Tensor along =
      torch::where(cap.excess > 1, dot / cap.square, torch::zeros_like(dot));
  // Keeps the core's strides, as meta says.
  const Tensor grad_core =
      torch::empty_like(core).copy_(cap.scale * (grad - along * cap.core));
  return {
      grad_core,
      gain ? (dot * cap.s).to(gain->scalar_type()).view(gain->sizes())
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
  m.impl("rms_cap", TORCH_FN(forward));
  m.impl("rms_cap_backward", TORCH_FN(backward));
}

TORCH_LIBRARY_IMPL(einforge, CUDA, m) {
  m.impl("rms_cap", TORCH_FN(forward));
  m.impl("rms_cap_backward", TORCH_FN(backward));
}

TORCH_LIBRARY_IMPL(einforge, Meta, m) {
  m.impl("rms_cap", TORCH_FN(forward_meta));
  m.impl("rms_cap_backward", TORCH_FN(backward_meta));
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
