#include "einforge/ops/cpu/rms_cap.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "einforge/kernels/cpu/dot.h"
#include "einforge/kernels/cpu/rms_cap.h"

#ifndef INTRA_OP_PARALLEL
#error "without OpenMP at::parallel_for would run on one thread"
#endif

namespace einforge::ops::on_cpu {
namespace {

namespace cpu = kernels::cpu;
using torch::Tensor;

// Calls work(part, begin, count) for each part of the elements.
template <typename Work>
void for_each_part(std::int64_t elements, const Work& work) {
  constexpr std::int64_t kPart = cpu::kRmsCapPart;
  constexpr std::int64_t kGrain = 2;  // parts that are worth a thread
  at::parallel_for(
      0,
      (elements + kPart - 1) / kPart,
      kGrain,
      [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t part = begin; part < end; ++part) {
          const std::int64_t at = part * kPart;
          work(part, at, std::min(kPart, elements - at));
        }
      });
}

double dot(const float* a, const float* b, std::int64_t elements) {
  std::vector<double> parts(static_cast<std::size_t>(
      (elements + cpu::kRmsCapPart - 1) / cpu::kRmsCapPart));
  for_each_part(
      elements, [&](std::int64_t part, std::int64_t at, std::int64_t count) {
        parts[static_cast<std::size_t>(part)] =
            cpu::dot<double>(a + at, b + at, count);
      });
  double sum = 0;
  for (const double part : parts) {
    sum += part;
  }
  return sum;
}

// As in ../rms_cap.cpp.
struct Cap {
  const float* core;
  std::int64_t elements;
  double square;  // core . core
  double excess;  // rms / max_rms
  double s;       // 1 / max(1, excess); NaN where that is
  double scale;   // the gain times s

  Cap(const Tensor& given, const std::optional<Tensor>& gain, double max_rms)
      : core(given.const_data_ptr<float>()),
        elements(given.numel()),
        square(dot(core, core, elements)),
        excess(std::sqrt(square / static_cast<double>(elements)) / max_rms),
        s(excess <= 1 ? 1 : 1 / excess),
        scale(
            gain ? s * static_cast<double>(*gain->const_data_ptr<float>())
                 : s) {}
};

}  // namespace

bool takes_rms_cap(
    const Tensor& core,
    const std::optional<Tensor>& gain,
    torch::ScalarType dtype) {
  return core.device().is_cpu() && core.scalar_type() == torch::kFloat32 &&
         core.numel() > 0 && core.is_non_overlapping_and_dense() &&
         (!gain || (gain->scalar_type() == torch::kFloat32 &&
                    gain->device().is_cpu())) &&
         (dtype == torch::kFloat32 || dtype == torch::kBFloat16);
}

Tensor rms_cap(
    const Tensor& core,
    const std::optional<Tensor>& gain,
    double max_rms,
    torch::ScalarType dtype) {
  const Cap cap(core, gain, max_rms);
  const Tensor y = torch::empty_like(core);
  float* const to = y.mutable_data_ptr<float>();
  for_each_part(
      cap.elements,
      [&](std::int64_t /*part*/, std::int64_t at, std::int64_t count) {
        cpu::scaled(cap.core + at, cap.scale, to + at, count);
      });
  return y.to(dtype);
}

std::tuple<Tensor, Tensor> rms_cap_backward(
    const Tensor& given_grad,
    const Tensor& core,
    const std::optional<Tensor>& gain,
    double max_rms) {
  const Cap cap(core, gain, max_rms);
  const Tensor grad = given_grad.scalar_type() == torch::kFloat32 &&
                              given_grad.strides() == core.strides()
                          ? given_grad
                          : torch::empty_like(core).copy_(given_grad);
  const float* const from = grad.const_data_ptr<float>();
  const double product = dot(from, cap.core, cap.elements);
  // Zero, not 0 / 0, for a core of zeros.
  const double along = cap.excess > 1 ? product / cap.square : 0;
  const Tensor grad_core = torch::empty_like(core);
  float* const to = grad_core.mutable_data_ptr<float>();
  for_each_part(
      cap.elements,
      [&](std::int64_t /*part*/, std::int64_t at, std::int64_t count) {
        cpu::rms_cap_gradient(
            from + at, cap.core + at, cap.scale, along, to + at, count);
      });
  if (!gain) {
    return {grad_core, core.new_empty({0})};
  }
  const Tensor grad_gain = torch::empty_like(*gain);
  *grad_gain.mutable_data_ptr<float>() = static_cast<float>(product * cap.s);
  return {grad_core, grad_gain};
}

}  // namespace einforge::ops::on_cpu
