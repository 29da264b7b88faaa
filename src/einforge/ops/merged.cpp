#include "einforge/ops/merged.h"

#include <algorithm>
#include <bit>

#include "einforge/ops/cuda/fastest.h"
#include "einforge/ops/cuda/merge.h"
#include "einforge/ops/kernel_choice.h"
#include "einforge/ops/sum_of_rows.h"

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

Cores cores_of(const Sizes& n, const Tensor& core_a, const Tensor& core_b) {
  if (fused::takes_merge(n, core_a)) {
    return {n, core_a, core_b};
  }
  return {n, matrices(core_a), matrices(core_b)};
}

// (d_out, d_in)
Tensor merge(const Cores& cores) {
  if (fused::takes_merge(cores.n, cores.a)) {
    return fused::merge(cores.n, cores.a, cores.b);
  }
  return matmul_merge(cores);
}

// The cores' gradients from the matrix's.
void split(
    const Cores& cores,
    const Tensor& grad_w,
    const GradientMask& mask,
    EinsumLinearGradients& result) {
  if (fused::takes_merge(cores.n, cores.a)) {
    const auto grads = fused::merge_gradients(
        cores.n, cores.a, cores.b, grad_w, {mask[1], mask[2]});
    result.core_a = grads[0];
    result.core_b = grads[1];
    return;
  }
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

bool merged_is_faster(const EinsumLinearProblem& problem) {
  const std::string& forced = forced_kernel();
  const bool is_faster =
      forced.empty() ? problem.device == torch::DeviceType::CUDA &&
                           problem.tokens > 0 && merged_is_fastest(problem)
                     : forced == merged_kernel().name;
  if (is_faster) {
    internal::note_choice("merged", [&] {
      return problem.to_string() + ", with the matrix kept";
    });
  }
  return is_faster;
}

}  // namespace einforge::ops
