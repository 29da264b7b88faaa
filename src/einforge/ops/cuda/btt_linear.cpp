#include "einforge/ops/cuda/btt_linear.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>

#include <tuple>

#include "einforge/kernels/cuda/btt_backward.h"
#include "einforge/kernels/cuda/btt_linear.h"
#include "einforge/kernels/cuda/btt_weight_grad.h"
#include "einforge/ops/contraction.h"
#include "einforge/ops/cuda/btt_operands.h"
#include "einforge/ops/cuda/btt_tuner.h"
#include "einforge/ops/reference/einsum_linear.h"
#include "einforge/ops/sum_of_rows.h"

namespace einforge::ops {
namespace {

namespace ek = kernels::cuda;
using torch::Tensor;

// y = BTT(x), and z where it is asked for.
void run_fused(
    const ek::BttSizes& sizes,
    const ek::BttCores& cores,
    const Tensor& x,
    const Tensor& y,
    const Tensor& bias,
    const Tensor& z) {
  const ek::BttPlan plan = fastest_plan(sizes, x.size(0));
  const ek::BttSizes packed_sizes = ek::btt_packed_sizes(sizes, plan);
  const Tensor packed = btt::workspace(x, ek::btt_packed_bytes(packed_sizes));
  const Tensor padded = btt::padded_bias(bias, sizes, packed_sizes);
  const ek::BttLaunch launch{
      .x = btt::data(x),
      .y = btt::mutable_data(y),
      .x_stride = sizes.d_in(),
      .y_stride = sizes.d_out(),
      .tokens = x.size(0),
      .bias = padded.defined() ? btt::data(padded) : nullptr,
      .z = z.defined() ? btt::mutable_data(z) : nullptr,
      .packed = packed.mutable_data_ptr()};
  const ek::DeviceLimits& limits = device_limits();
  const auto stream = c10::cuda::getCurrentCUDAStream();
  C10_CUDA_CHECK(ek::btt_pack(sizes, cores, launch.packed, stream, plan));
  C10_CUDA_CHECK(ek::btt_forward(
      sizes, launch, plan, limits, /*after_pack=*/true, stream));
}

// The gradient of the first core of the layer `sizes`, into `grad`.
void run_weight_grad(
    const ek::BttSizes& sizes,
    const ek::BttCores::Strides& strides,
    const Tensor& p,
    const Tensor& q,
    const Tensor& grad) {
  const ek::BttWeightGradSizes grad_sizes(sizes);
  const ek::DeviceLimits& limits = device_limits();
  const Tensor partials = btt::workspace(
      p, ek::btt_weight_grad_bytes(grad_sizes, p.size(0), limits));
  const ek::BttWeightGradLaunch launch{
      .p = btt::data(p),
      .p_stride = sizes.d_in(),
      .q = btt::data(q),
      .tokens = p.size(0),
      .workspace = partials.mutable_data_ptr(),
      .grad = btt::mutable_data(grad),
      .strides = strides};
  C10_CUDA_CHECK(ek::btt_weight_grad(
      grad_sizes, launch, limits, c10::cuda::getCurrentCUDAStream()));
}

bool supports(const EinsumLinearProblem& problem) {
  if (problem.dtype != torch::kBFloat16 ||
      problem.device != torch::DeviceType::CUDA) {
    return false;
  }
  const Contraction c(problem.sizes);
  if (!btt::is_btt(c)) {
    return false;
  }
  const ek::BttSizes sizes = btt::sizes_of(c);
  const ek::DeviceLimits& limits = device_limits();
  if (limits.major == 0) {  // no code of ours runs there
    return false;
  }
  const auto takes = [&](const ek::BttSizes& s) {
    return !ek::btt_plans(s, problem.tokens, limits).empty();
  };
  if (problem.pass == Pass::kForward) {
    return takes(sizes);
  }
  return takes(sizes) && takes(sizes.transposed()) &&
         ek::btt_weight_grad_supports(ek::BttWeightGradSizes(sizes), limits) &&
         ek::btt_weight_grad_supports(
             ek::BttWeightGradSizes(sizes.transposed()), limits);
}

Tensor forward(
    const EinsumLinearProblem& problem,
    const Tensor& x,
    const Tensor& core_a,
    const Tensor& core_b,
    const std::optional<Tensor>& bias) {
  const Contraction c(problem.sizes);
  const auto [first, second] = c.ordered(core_a, core_b);
  Tensor y = torch::empty({problem.tokens, c.d_out()}, x.options());
  run_fused(
      btt::sizes_of(c),
      btt::cores_of(first, second),
      btt::aligned(x),
      y,
      bias ? bias->contiguous() : Tensor(),
      /*z=*/Tensor());
  return y;
}

// What a backward pass works on, and which of the core gradients it wants: an
// undefined one is not asked for.
struct BackwardProblem {
  ek::BttSizes sizes;
  ek::BttCores cores;
  Tensor x;
  Tensor grad;
  Tensor grad_first;
  Tensor grad_second;

  // Whether one kernel has both core gradients.
  [[nodiscard]] bool fused() const {
    return grad_first.defined() && grad_second.defined() &&
           ek::btt_backward_supports(sizes, device_limits());
  }
};

// dx where it is defined, and the core gradients from z and dz in memory.
void run_separate_backward(const BackwardProblem& p, const Tensor& dx) {
  const std::int64_t tokens = p.x.size(0);
  const std::int64_t z_size =
      static_cast<std::int64_t>(p.sizes.gamma) * p.sizes.phi * p.sizes.rho;
  if (dx.defined() || p.grad_first.defined()) {
    const Tensor dz = p.grad_first.defined()
                          ? torch::empty({tokens, z_size}, p.x.options())
                          : Tensor();  // (tokens, gamma, rho, phi)
    run_fused(
        p.sizes.transposed(),
        p.cores.transposed(),
        p.grad,
        dx.defined() ? dx : torch::empty_like(p.x),
        /*bias=*/Tensor(),
        dz);
    if (p.grad_first.defined()) {
      run_weight_grad(
          p.sizes,
          btt::strides_of(p.grad_first, /*first=*/true),
          p.x,
          dz,
          p.grad_first);
    }
  }
  if (p.grad_second.defined()) {
    // Only z is wanted here.
    const Tensor z =
        torch::empty({tokens, z_size}, p.x.options());  // (.., phi, rho, gamma)
    const Tensor y = torch::empty_like(p.grad);
    run_fused(p.sizes, p.cores, p.x, y, /*bias=*/Tensor(), z);
    run_weight_grad(
        p.sizes.transposed(),
        btt::strides_of(p.grad_second, /*first=*/false).exchanged(),
        p.grad,
        z,
        p.grad_second);
  }
}

// @param dbias (d_out), written where btt_backward_sums_bias(), or undefined
void run_fused_backward(
    const BackwardProblem& p, const Tensor& dx, const Tensor& dbias) {
  const bool sums_bias = dbias.defined() && ek::btt_backward_sums_bias(p.sizes);
  if (dx.defined()) {
    run_fused(
        p.sizes.transposed(),
        p.cores.transposed(),
        p.grad,
        dx,
        /*bias=*/Tensor(),
        /*z=*/Tensor());
  }
  btt::core_gradients(
      p.sizes,
      p.cores,
      p.x,
      p.grad,
      p.grad_first,
      p.grad_second,
      {.dbias = sums_bias ? btt::mutable_data(dbias) : nullptr});
}

EinsumLinearGradients backward(
    const EinsumLinearProblem& problem,
    const Tensor& grad,
    const Tensor& x,
    const Tensor& core_a,
    const Tensor& core_b,
    const GradientMask& mask) {
  const Contraction c(problem.sizes);
  const auto [first, second] = c.ordered(core_a, core_b);
  const auto [first_asked, second_asked] = c.ordered(mask[1], mask[2]);
  const BackwardProblem p{
      .sizes = btt::sizes_of(c),
      .cores = btt::cores_of(first, second),
      .x = btt::aligned(x),
      .grad = btt::aligned(grad),
      .grad_first = first_asked ? torch::empty_like(first) : Tensor(),
      .grad_second = second_asked ? torch::empty_like(second) : Tensor()};
  EinsumLinearGradients result;
  result.x = mask[0] ? torch::empty_like(p.x) : Tensor();
  const bool fused = p.fused();
  if (mask[3]) {
    result.bias = fused && ek::btt_backward_sums_bias(p.sizes)
                      ? torch::empty({c.d_out()}, p.grad.options())
                      : sum_of_rows(grad, grad.scalar_type());
  }
  if (fused) {
    run_fused_backward(p, result.x, result.bias);
  } else if (mask[0] || first_asked || second_asked) {
    run_separate_backward(p, result.x);
  }
  std::tie(result.core_a, result.core_b) =
      c.ordered(p.grad_first, p.grad_second);
  return result;
}

}  // namespace

EinsumLinearKernel fused_btt_kernel() {
  return {
      .name = "fused",
      .supports = supports,
      .forward = forward,
      .backward = backward};
}

}  // namespace einforge::ops
