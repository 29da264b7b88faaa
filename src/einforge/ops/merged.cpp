#include "einforge/ops/merged.h"

#include <algorithm>
#include <bit>

#include "einforge/ops/kernel_choice.h"
#include "einforge/ops/sum_of_rows.h"
#ifdef EINFORGE_HAVE_CUDA
#include "einforge/kernels/cuda/merge.h"
#include "einforge/ops/cuda/btt_operands.h"
#include "einforge/ops/cuda/btt_tuner.h"
#endif

namespace einforge::ops {
namespace {

using structure::Sizes;
using torch::Tensor;

// The layer's cores: as they are for our own kernels, else as matrices().
struct Cores {
  Sizes n;
  Tensor a;
  Tensor b;
};

// A core as a matrix for each (gamma, phi): (gamma phi, out in, rho).
Tensor matrices(const Tensor& core) {
  return core.permute({1, 3, 2, 0, 4}).flatten(2, 3).flatten(0, 1);
}

Tensor matmul_merge(const Cores& c) {
  const Sizes& n = c.n;
  return torch::bmm(c.a, c.b.transpose(1, 2))
      .view({n.gamma, n.phi, n.delta, n.alpha, n.epsilon, n.beta})
      .permute({2, 4, 1, 3, 5, 0})
      .reshape({n.d_out(), n.d_in()});
}

void matmul_gradients(
    const Cores& c,
    const Tensor& grad_w,
    const GradientMask& mask,
    EinsumLinearGradients& result) {
  const Sizes& n = c.n;
  const Tensor products =  // (gamma phi, delta alpha, epsilon beta)
      grad_w.view({n.delta, n.epsilon, n.phi, n.alpha, n.beta, n.gamma})
          .permute({5, 2, 0, 3, 1, 4})
          .reshape({n.gamma * n.phi, n.delta * n.alpha, n.epsilon * n.beta});
  if (mask[1]) {
    result.core_a = products.bmm(c.b)
                        .view({n.gamma, n.phi, n.delta, n.alpha, n.rho})
                        .permute({3, 0, 2, 1, 4});
  }
  if (mask[2]) {
    result.core_b = products.transpose(1, 2)
                        .bmm(c.a)
                        .view({n.gamma, n.phi, n.epsilon, n.beta, n.rho})
                        .permute({3, 0, 2, 1, 4});
  }
}

#ifdef EINFORGE_HAVE_CUDA
namespace ek = kernels::cuda;

ek::MergeSizes merge_sizes(const Sizes& n) {
  return {
      .alpha = static_cast<int>(n.alpha),
      .beta = static_cast<int>(n.beta),
      .gamma = static_cast<int>(n.gamma),
      .delta = static_cast<int>(n.delta),
      .epsilon = static_cast<int>(n.epsilon),
      .phi = static_cast<int>(n.phi),
      .rho = static_cast<int>(n.rho)};
}

// Whether our own kernels make the matrix: torch's products cannot write gamma
// innermost, and a copy that does takes several times as long.
bool have_kernel(const Sizes& n, const Tensor& core) {
  return architecture_supported(core) &&
         core.scalar_type() == torch::kBFloat16 &&
         ek::merge_supports(merge_sizes(n));
}

// (out, phi, rho, in, gamma)
Tensor gamma_innermost(const Tensor& core) {
  return btt::aligned(core.permute({2, 3, 4, 0, 1}).contiguous());
}

Tensor fused_merge(const Cores& c) {
  const Tensor a = gamma_innermost(c.a);
  const Tensor b = gamma_innermost(c.b);
  Tensor w = torch::empty({c.n.d_out(), c.n.d_in()}, a.options());
  C10_CUDA_CHECK(ek::merge_cores(
      merge_sizes(c.n),
      btt::data(a),
      btt::data(b),
      btt::mutable_data(w),
      c10::cuda::getCurrentCUDAStream()));
  return w;
}

ek::MergeCoreStrides strides_of(const Tensor& core) {
  return {
      .in = core.stride(0),
      .gamma = core.stride(1),
      .out = core.stride(2),
      .phi = core.stride(3),
      .rho = core.stride(4)};
}

void fused_gradients(
    const Cores& c,
    const Tensor& grad_w,
    const GradientMask& mask,
    EinsumLinearGradients& result) {
  const auto operand = [](const Tensor& core) -> ek::MergeCore {
    return {btt::data(core), strides_of(core)};
  };
  // In the core's own strides, so that nobody has to copy it.
  const auto gradient = [](bool is_asked, const Tensor& core, Tensor& grad) {
    ek::MergeCoreGradient wanted;
    if (is_asked) {
      grad = torch::empty_like(core);
      wanted = {btt::mutable_data(grad), strides_of(grad)};
    }
    return wanted;
  };
  C10_CUDA_CHECK(ek::merge_gradients(
      merge_sizes(c.n),
      btt::data(grad_w),
      operand(c.a),
      operand(c.b),
      gradient(mask[1], c.a, result.core_a),
      gradient(mask[2], c.b, result.core_b),
      c10::cuda::getCurrentCUDAStream()));
}
#endif

Cores cores_of(const Sizes& n, const Tensor& core_a, const Tensor& core_b) {
#ifdef EINFORGE_HAVE_CUDA
  if (have_kernel(n, core_a)) {
    return {n, core_a, core_b};
  }
#endif
  return {n, matrices(core_a), matrices(core_b)};
}

// (d_out, d_in)
Tensor merge(const Cores& cores) {
#ifdef EINFORGE_HAVE_CUDA
  if (have_kernel(cores.n, cores.a)) {
    return fused_merge(cores);
  }
#endif
  return matmul_merge(cores);
}

// The cores' gradients from the matrix's.
void split(
    const Cores& cores,
    const Tensor& grad_w,
    const GradientMask& mask,
    EinsumLinearGradients& result) {
#ifdef EINFORGE_HAVE_CUDA
  if (have_kernel(cores.n, cores.a)) {
    fused_gradients(cores, grad_w, mask, result);
    return;
  }
#endif
  matmul_gradients(cores, grad_w, mask, result);
}

// Tokens count in powers of two, as for the measured choice.
bool supports(const EinsumLinearProblem& problem) {
  const auto tokens = std::bit_ceil(static_cast<std::uint64_t>(problem.tokens));
  return static_cast<std::uint64_t>(
             std::min(problem.sizes.d_in(), problem.sizes.d_out())) <= tokens;
}

Tensor forward(
    const EinsumLinearProblem& problem,
    const Tensor& x,
    const Tensor& core_a,
    const Tensor& core_b,
    const std::optional<Tensor>& bias) {
  return torch::linear(x, merge(cores_of(problem.sizes, core_a, core_b)), bias);
}

EinsumLinearGradients backward(
    const EinsumLinearProblem& problem,
    const Tensor& grad,
    const Tensor& x,
    const Tensor& core_a,
    const Tensor& core_b,
    const GradientMask& mask) {
  const Cores cores = cores_of(problem.sizes, core_a, core_b);
  EinsumLinearGradients result;
  if (mask[0]) {
    result.x = grad.mm(merge(cores));
  }
  if (mask[1] || mask[2]) {
    split(cores, grad.t().mm(x), mask, result);
  }
  if (mask[3]) {
    result.bias = sum_of_rows(grad, grad.scalar_type());
  }
  return result;
}

}  // namespace

EinsumLinearKernel merged_kernel() {
  return {
      .name = "merged",
      .supports = supports,
      .forward = forward,
      .backward = backward};
}

bool merged_is_faster([[maybe_unused]] const EinsumLinearProblem& problem) {
  if (!forced_kernel().empty()) {
    return forced_kernel() == merged_kernel().name;
  }
#ifdef EINFORGE_HAVE_CUDA
  if (problem.device == torch::DeviceType::CUDA && problem.tokens > 0) {
    return merged_is_fastest(problem);
  }
#endif
  return false;
}

}  // namespace einforge::ops
