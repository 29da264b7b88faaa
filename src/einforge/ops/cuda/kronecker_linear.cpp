#include "einforge/ops/cuda/kronecker_linear.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>

#include "einforge/kernels/cuda/kronecker.h"
#include "einforge/ops/cuda/btt_operands.h"
#include "einforge/ops/cuda/btt_tuner.h"
#include "einforge/ops/sum_of_rows.h"

namespace einforge::ops {
namespace {

namespace ek = kernels::cuda;
using torch::Tensor;

ek::KroneckerSizes sizes_of(const structure::Sizes& n) {
  return {
      .alpha = static_cast<int>(n.alpha),
      .beta = static_cast<int>(n.beta),
      .delta = static_cast<int>(n.delta),
      .epsilon = static_cast<int>(n.epsilon),
      .rho = static_cast<int>(n.rho)};
}

// (in, 1, out, 1, rho).
ek::KroneckerCore core_of(const Tensor& core) {
  return {
      .data = btt::data(core),
      .in = core.stride(0),
      .out = core.stride(2),
      .rho = core.stride(4)};
}

// y = the layer `sizes` of x.
void run_forward(
    const ek::KroneckerSizes& sizes,
    const ek::KroneckerCore& a,
    const ek::KroneckerCore& b,
    const Tensor& x,
    const Tensor& y,
    const Tensor& bias) {
  C10_CUDA_CHECK(ek::kronecker_forward(
      sizes,
      a,
      b,
      {.x = btt::data(x),
       .y = btt::mutable_data(y),
       .bias = bias.defined() ? btt::data(bias) : nullptr,
       .tokens = x.size(0)},
      device_limits(),
      c10::cuda::getCurrentCUDAStream()));
}

bool supports(const EinsumLinearProblem& problem) {
  const structure::Sizes& n = problem.sizes;
  if (problem.dtype != torch::kBFloat16 ||
      problem.device != torch::DeviceType::CUDA || n.gamma != 1 || n.phi != 1) {
    return false;
  }
  const ek::DeviceLimits& limits = device_limits();
  if (limits.major == 0) {  // no code of ours runs there
    return false;
  }
  const ek::KroneckerSizes sizes = sizes_of(n);
  if (problem.pass == Pass::kForward) {
    return ek::kronecker_supports(sizes, limits);
  }
  return ek::kronecker_supports(sizes.transposed(), limits) &&
         ek::kronecker_grad_supports(sizes, limits);
}

Tensor forward(
    const EinsumLinearProblem& problem,
    const Tensor& x,
    const Tensor& core_a,
    const Tensor& core_b,
    const std::optional<Tensor>& bias) {
  Tensor y = torch::empty({problem.tokens, problem.sizes.d_out()}, x.options());
  run_forward(
      sizes_of(problem.sizes),
      core_of(core_a),
      core_of(core_b),
      btt::aligned(x),
      y,
      bias ? btt::aligned(bias->contiguous()) : Tensor());
  return y;
}

EinsumLinearGradients backward(
    const EinsumLinearProblem& problem,
    const Tensor& given_grad,
    const Tensor& given_x,
    const Tensor& core_a,
    const Tensor& core_b,
    const GradientMask& mask) {
  const ek::KroneckerSizes sizes = sizes_of(problem.sizes);
  const ek::KroneckerCore a = core_of(core_a);
  const ek::KroneckerCore b = core_of(core_b);
  const Tensor grad = btt::aligned(given_grad);
  EinsumLinearGradients result;
  if (mask[0]) {
    result.x =
        torch::empty({problem.tokens, problem.sizes.d_in()}, grad.options());
    run_forward(
        sizes.transposed(),
        a.transposed(),
        b.transposed(),
        grad,
        result.x,
        /*bias=*/Tensor());
  }
  if (mask[1] || mask[2]) {  // one costs about as much as both
    const ek::DeviceLimits& limits = device_limits();
    const Tensor x = btt::aligned(given_x);
    const Tensor workspace = btt::workspace(
        x, ek::kronecker_grad_bytes(sizes, problem.tokens, limits));
    Tensor da = torch::empty_like(core_a);
    Tensor db = torch::empty_like(core_b);
    C10_CUDA_CHECK(ek::kronecker_grad(
        sizes,
        a,
        b,
        {.x = btt::data(x),
         .dy = btt::data(grad),
         .tokens = problem.tokens,
         .workspace = workspace.mutable_data_ptr(),
         .da = btt::mutable_data(da),
         .db = btt::mutable_data(db),
         .da_strides = core_of(da),
         .db_strides = core_of(db)},
        limits,
        c10::cuda::getCurrentCUDAStream()));
    result.core_a = mask[1] ? da : Tensor();
    result.core_b = mask[2] ? db : Tensor();
  }
  if (mask[3]) {
    result.bias = sum_of_rows(given_grad, given_grad.scalar_type());
  }
  return result;
}

}  // namespace

EinsumLinearKernel kronecker_kernel() {
  return {
      .name = "kronecker",
      .supports = supports,
      .forward = forward,
      .backward = backward};
}

}  // namespace einforge::ops
