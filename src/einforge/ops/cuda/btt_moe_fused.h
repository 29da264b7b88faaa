#pragma once

#include "einforge/ops/btt_moe_table.h"
#include "einforge/ops/moe_routing.h"

namespace einforge::ops {

// Mixtures of BTT experts of rank 1 at the sizes that the register-resident
// kernels take, bfloat16 on sm_90: tokens are sorted by expert on the device,
// rows are gathered and scattered by TMA, both stages stay on chip. Backward it
// takes a row of the input for each pair of a token and an expert (forward,
// with more than two experts of a token, of the output), and both cores in
// float32 for each split of the tokens and for each expert.
// docs/design/btt_moe_kernels.md has the bytes.
BttMoeKernel fused_moe_kernel();

// Mixtures of BTT experts of any size and rank in two passes
// (ops/cuda/btt_two_pass.h), with z of every pair in memory.
BttMoeKernel two_pass_moe_kernel();

// The same together with its router: the choice is made as the scores come off
// the sums, and backward the router's part of dx is added as the rows are.
namespace fused {

struct RoutedOperands {
  torch::Tensor x;       // (..., d_in)
  torch::Tensor router;  // (E, d_in) float32
  torch::Tensor core_a;
  torch::Tensor core_b;
  torch::Tensor bias;  // (d_out), any dtype, or undefined; not read backward
};

bool takes_routed(const RoutedOperands& operands, std::int64_t active);

struct RoutedForward {
  torch::Tensor y;       // (..., d_out); not read backward
  torch::Tensor logits;  // (T, E)
  MoeRouting routing;
};

RoutedForward routed_forward(
    const RoutedOperands& operands,
    std::int64_t active,
    const MoeRouteOptions& options);

struct RoutedOutputGradients {
  torch::Tensor y;
  torch::Tensor logits;  // or undefined
  torch::Tensor gates;   // or undefined
};

// Of the operands; undefined where not asked for.
struct RoutedGradients {
  torch::Tensor x;
  torch::Tensor router;
  torch::Tensor core_a;
  torch::Tensor core_b;
};

RoutedGradients routed_backward(
    const RoutedOperands& operands,
    const RoutedForward& saved,
    const RoutedOutputGradients& grads,
    bool softmax_first,
    const GradientMask& mask);

}  // namespace fused
}  // namespace einforge::ops
