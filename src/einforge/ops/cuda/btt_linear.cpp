#include "einforge/ops/cuda/btt_linear.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>

#include "einforge/kernels/cuda/btt_linear.h"
#include "einforge/kernels/cuda/btt_weight_grad.h"
#include "einforge/ops/contraction.h"
#include "einforge/ops/cuda/btt_tuner.h"
#include "einforge/ops/reference/einsum_linear.h"

namespace einforge::ops {
namespace {

namespace ek = kernels::cuda;
using torch::Tensor;

const __nv_bfloat16* data(const Tensor& tensor) {
  return static_cast<const __nv_bfloat16*>(tensor.const_data_ptr());
}

__nv_bfloat16* mutable_data(const Tensor& tensor) {
  return static_cast<__nv_bfloat16*>(tensor.mutable_data_ptr());
}

Tensor workspace(const Tensor& like, size_t bytes) {
  return torch::empty(
      {static_cast<int64_t>(bytes)}, like.options().dtype(torch::kUInt8));
}

// The kernels read 16 bytes at a time; a slice may start anywhere.
Tensor aligned(const Tensor& tensor) {
  const auto address =
      reinterpret_cast<std::uintptr_t>(tensor.const_data_ptr());
  return address % 16 == 0 ? tensor : tensor.clone();
}

// Both stages contract one index each.
bool is_btt(const Contraction& c) {
  return c.second_in == 1 && c.first_out == 1;
}

ek::BttSizes sizes_of(const Contraction& c) {
  return {
      .alpha = static_cast<int>(c.first_in),
      .gamma = static_cast<int>(c.gamma),
      .epsilon = static_cast<int>(c.second_out),
      .phi = static_cast<int>(c.phi),
      .rho = static_cast<int>(c.rho)};
}

// A core is (in, gamma, out, phi, rho) with `in` or `out` of size 1.
ek::BttCores::Strides strides_of(const Tensor& core, int contracted) {
  return {
      .in = core.stride(contracted),
      .gamma = core.stride(1),
      .phi = core.stride(3),
      .rho = core.stride(4)};
}

ek::BttCores::Strides first_strides(const Tensor& core) {
  return strides_of(core, 0);
}

ek::BttCores::Strides second_strides(const Tensor& core) {
  return strides_of(core, 2);
}

ek::BttCores cores_of(const Tensor& first, const Tensor& second) {
  ek::BttCores cores;
  cores.a = data(first);
  cores.b = data(second);
  cores.a_strides = first_strides(first);
  cores.b_strides = second_strides(second);
  return cores;
}

// y = BTT(x), and z where it is asked for.
void run_fused(
    const ek::BttSizes& sizes,
    const ek::BttCores& cores,
    const Tensor& x,
    const Tensor& y,
    const Tensor& bias,
    const Tensor& z) {
  const Tensor packed = workspace(x, ek::btt_packed_bytes(sizes));
  const ek::BttLaunch launch{
      .x = data(x),
      .y = mutable_data(y),
      .x_stride = sizes.d_in(),
      .y_stride = sizes.d_out(),
      .tokens = x.size(0),
      .bias = bias.defined() ? data(bias) : nullptr,
      .z = z.defined() ? mutable_data(z) : nullptr,
      .packed = packed.mutable_data_ptr()};
  const ek::BttPlan plan = fastest_plan(sizes, launch.tokens);
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
  const Tensor partials =
      workspace(p, ek::btt_weight_grad_bytes(grad_sizes, p.size(0), limits));
  const ek::BttWeightGradLaunch launch{
      .p = data(p),
      .p_stride = sizes.d_in(),
      .q = data(q),
      .tokens = p.size(0),
      .workspace = partials.mutable_data_ptr(),
      .grad = mutable_data(grad),
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
  if (!is_btt(c)) {
    return false;
  }
  const ek::BttSizes sizes = sizes_of(c);
  const ek::DeviceLimits& limits = device_limits();
  if (limits.major < 8 || limits.major > 9) {
    return false;  // the library has machine code for these alone
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
  Tensor y = torch::empty({problem.tokens, c.d_out()}, x.options());
  run_fused(
      sizes_of(c),
      cores_of(c.ab() ? core_a : core_b, c.ab() ? core_b : core_a),
      aligned(x),
      y,
      bias ? bias->contiguous() : Tensor(),
      /*z=*/Tensor());
  return y;
}

EinsumLinearGradients backward(
    const EinsumLinearProblem& problem,
    const Tensor& grad_any,
    const Tensor& x_any,
    const Tensor& core_a,
    const Tensor& core_b,
    const GradientMask& mask) {
  const Tensor grad = aligned(grad_any);
  const Tensor x = aligned(x_any);
  const Contraction c(problem.sizes);
  const ek::BttSizes sizes = sizes_of(c);
  const Tensor& first = c.ab() ? core_a : core_b;
  const Tensor& second = c.ab() ? core_b : core_a;
  const bool first_asked = mask[c.ab() ? 1 : 2];
  const bool second_asked = mask[c.ab() ? 2 : 1];
  const ek::BttCores cores = cores_of(first, second);
  const std::int64_t z_size = c.gamma * c.phi * c.rho;
  EinsumLinearGradients result;
  Tensor grad_first;
  Tensor grad_second;
  if (mask[0] || first_asked) {
    const Tensor dz = first_asked
                          ? torch::empty({problem.tokens, z_size}, x.options())
                          : Tensor();  // (tokens, gamma, rho, phi)
    const Tensor dx = torch::empty_like(x);
    run_fused(
        sizes.transposed(),
        cores.transposed(),
        grad,
        dx,
        /*bias=*/Tensor(),
        dz);
    if (mask[0]) {
      result.x = dx;
    }
    if (first_asked) {
      grad_first = torch::empty_like(first);
      run_weight_grad(sizes, first_strides(grad_first), x, dz, grad_first);
    }
  }
  if (second_asked) {
    const Tensor z = torch::empty(
        {problem.tokens, z_size}, x.options());  // (tokens, phi, rho, gamma)
    // Only z is wanted here.
    const Tensor y = torch::empty_like(grad);
    run_fused(sizes, cores, x, y, /*bias=*/Tensor(), z);
    grad_second = torch::empty_like(second);
    ek::BttCores::Strides strides = second_strides(grad_second);
    std::swap(strides.gamma, strides.phi);
    run_weight_grad(sizes.transposed(), strides, grad, z, grad_second);
  }
  if (mask[3]) {
    result.bias = grad.sum(0);
  }
  result.core_a = c.ab() ? grad_first : grad_second;
  result.core_b = c.ab() ? grad_second : grad_first;
  return result;
}

}  // namespace

EinsumLinearKernel fused_btt_kernel() {
  return {
      .name = "fused",
      .supports = supports,
      .forward = forward,
      .backward = backward,
      .preferred = [](const EinsumLinearProblem& problem) {
        return fused_is_faster(problem, fused_btt_kernel(), bmm_kernel());
      }};
}

}  // namespace einforge::ops
