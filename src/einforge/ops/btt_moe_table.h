#pragma once

#include <torch/types.h>

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <tuple>

#include "einforge/ops/kernel_table.h"

// How a device's implementation of btt_moe_linear chooses its kernel; the same
// rules as for einsum_linear (kernel_table.h).
namespace einforge::ops {

struct BttMoeProblem {
  // One expert that has all tokens.
  EinsumLinearProblem expert;
  std::int64_t experts = 1;
  std::int64_t active = 1;

  // The expert as it is in the mean: with its share of the tokens, rounded up.
  EinsumLinearProblem mean_expert() const;
  // "cpu Float forward 2048 x (32,1,32 -> 1,32,32; 1), 2 of 16 experts".
  std::string to_string() const;
};

struct BttMoeOperands {
  torch::Tensor x;        // (T, d_in), contiguous, T > 0
  torch::Tensor core_a;   // (E, n_alpha, n_gamma, n_delta, n_phi, n_rho)
  torch::Tensor core_b;   // (E, n_beta, n_gamma, n_epsilon, n_phi, n_rho)
  torch::Tensor experts;  // (T, k) int32, contiguous
  torch::Tensor gates;    // (T, k) float32 or float64, contiguous
};

// Of the first three operands and the gates; undefined where not asked for.
struct BttMoeGradients {
  torch::Tensor x;       // (T, d_in)
  torch::Tensor core_a;  // the sizes of core_a, any strides
  torch::Tensor core_b;
  torch::Tensor gates;  // (T, k)
};

struct BttMoeKernel {
  std::string_view name;
  bool (*supports)(const BttMoeProblem& problem);
  // Returns (T, d_out).
  torch::Tensor (*forward)(
      const BttMoeProblem& problem, const BttMoeOperands& operands);
  // @param grad (T, d_out), contiguous
  BttMoeGradients (*backward)(
      const BttMoeProblem& problem,
      const torch::Tensor& grad,
      const BttMoeOperands& operands,
      const GradientMask& mask);
  bool (*preferred)(const BttMoeProblem& problem) = nullptr;
};

// Validate, choose and run: what the devices' implementations share.
torch::Tensor run_moe_forward(
    std::span<const BttMoeKernel> table,
    const torch::Tensor& x,
    const torch::Tensor& core_a,
    const torch::Tensor& core_b,
    const torch::Tensor& experts,
    const torch::Tensor& gates);
std::tuple<torch::Tensor, torch::Tensor, torch::Tensor, torch::Tensor>
run_moe_backward(
    std::span<const BttMoeKernel> table,
    const torch::Tensor& grad,
    const torch::Tensor& x,
    const torch::Tensor& core_a,
    const torch::Tensor& core_b,
    const torch::Tensor& experts,
    const torch::Tensor& gates,
    const GradientMask& mask);

// The table of a device, for benchmarks and tests.
std::span<const BttMoeKernel> cpu_moe_kernels();
std::span<const BttMoeKernel> cuda_moe_kernels();

}  // namespace einforge::ops
