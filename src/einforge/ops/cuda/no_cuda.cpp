// In place of the sources of this folder that call CUDA kernels of our own,
// where the build has none: nothing is taken, and torch's own ways remain.
#include <torch/types.h>

#include "einforge/ops/cuda/batched_transpose.h"
#include "einforge/ops/cuda/btt_linear.h"
#include "einforge/ops/cuda/btt_moe_fused.h"
#include "einforge/ops/cuda/device.h"
#include "einforge/ops/cuda/embedding.h"
#include "einforge/ops/cuda/fastest.h"
#include "einforge/ops/cuda/ffn.h"
#include "einforge/ops/cuda/gelu.h"
#include "einforge/ops/cuda/graphs.h"
#include "einforge/ops/cuda/kronecker_linear.h"
#include "einforge/ops/cuda/layer_norm.h"
#include "einforge/ops/cuda/merge.h"
#include "einforge/ops/cuda/moe_router.h"
#include "einforge/ops/cuda/moe_router_loss.h"
#include "einforge/ops/cuda/residual_norm.h"
#include "einforge/ops/cuda/rms_cap.h"
#include "einforge/ops/cuda/short_attention.h"
#include "einforge/ops/cuda/sum_of_rows.h"

namespace einforge::ops {

using torch::Tensor;

namespace {

[[noreturn]] void not_built() {
  TORCH_CHECK(false, "[einforge] expected a build with CUDA kernels");
}

}  // namespace

bool architecture_supported(const Tensor& /*tensor*/) {
  return false;
}

bool is_hopper() {
  return false;
}

// Nothing is measured: the first row of a table.
bool is_fastest(
    const EinsumLinearProblem& /*problem*/, std::string_view /*kernel*/) {
  return true;
}

bool merged_is_fastest(const EinsumLinearProblem& /*problem*/) {
  return false;
}

struct CudaGraphs::Recorded {};

CudaGraphs::CudaGraphs(torch::Device /*device*/) {
  not_built();
}

CudaGraphs::~CudaGraphs() = default;

std::size_t CudaGraphs::record(const std::function<void()>& /*work*/) {
  not_built();
}

void CudaGraphs::repeat(std::size_t /*part*/) const {
  not_built();
}

void CudaGraphs::lend_memory(const std::function<void()>& /*work*/) {
  not_built();
}

EinsumLinearKernel fused_btt_kernel() {
  return {
      .name = "fused",
      .supports = [](const EinsumLinearProblem& /*problem*/) { return false; }};
}

EinsumLinearKernel two_pass_btt_kernel() {
  return {
      .name = "two_pass",
      .supports = [](const EinsumLinearProblem& /*problem*/) { return false; }};
}

EinsumLinearKernel kronecker_kernel() {
  return {
      .name = "kronecker",
      .supports = [](const EinsumLinearProblem& /*problem*/) { return false; }};
}

BttMoeKernel two_pass_moe_kernel() {
  return {.name = "two_pass", .supports = [](const BttMoeProblem& /*problem*/) {
            return false;
          }};
}

BttMoeKernel fused_moe_kernel() {
  return {.name = "fused", .supports = [](const BttMoeProblem& /*problem*/) {
            return false;
          }};
}

namespace fused {

Tensor to_batches(
    const kernels::cuda::BatchedTransposeShape& /*shape*/,
    const Tensor& /*rows*/) {
  return {};
}

Tensor to_rows(
    const kernels::cuda::BatchedTransposeShape& /*shape*/,
    const Tensor& /*batches*/) {
  return {};
}

bool takes_routed(const RoutedOperands& /*operands*/, std::int64_t /*active*/) {
  return false;
}

RoutedForward routed_forward(
    const RoutedOperands& /*operands*/,
    std::int64_t /*active*/,
    const MoeRouteOptions& /*options*/) {
  not_built();
}

RoutedGradients routed_backward(
    const RoutedOperands& /*operands*/,
    const RoutedForward& /*saved*/,
    const RoutedOutputGradients& /*grads*/,
    bool /*softmax_first*/,
    const GradientMask& /*mask*/) {
  not_built();
}

bool takes_ffn(const Tensor& /*x*/, const FfnProblem& /*problem*/) {
  return false;
}

bool ffn_is_fastest(const Tensor& /*x*/, const FfnProblem& /*problem*/) {
  return false;
}

Tensor ffn(
    const Tensor& /*x*/, const FfnLayer& /*in*/, const FfnLayer& /*out*/) {
  not_built();
}

bool takes_layer_norm(
    const Tensor& /*x*/, const Tensor& /*gain*/, const Tensor& /*bias*/) {
  return false;
}

Tensor layer_norm(
    const Tensor& /*x*/, const Tensor& /*gain*/, double /*epsilon*/) {
  not_built();
}

bool takes_merge(const structure::Sizes& /*sizes*/, const Tensor& /*core*/) {
  return false;
}

Tensor merge(
    const structure::Sizes& /*sizes*/,
    const Tensor& /*core_a*/,
    const Tensor& /*core_b*/) {
  not_built();
}

std::array<Tensor, 2> merge_gradients(
    const structure::Sizes& /*sizes*/,
    const Tensor& /*core_a*/,
    const Tensor& /*core_b*/,
    const Tensor& /*grad*/,
    std::array<bool, 2> /*asked*/) {
  not_built();
}

bool takes_logits(const Tensor& /*x*/, const Tensor& /*weight*/) {
  return false;
}

Tensor logits(const Tensor& /*x*/, const Tensor& /*weight*/) {
  not_built();
}

std::array<Tensor, 2> logits_backward(
    const Tensor& /*grad*/,
    const Tensor& /*x*/,
    const Tensor& /*weight*/,
    std::array<bool, 2> /*asked*/) {
  not_built();
}

bool takes_route(const Tensor& /*logits*/, std::int64_t /*active*/) {
  return false;
}

MoeRouting route(
    const Tensor& /*logits*/,
    std::int64_t /*active*/,
    const MoeRouteOptions& /*options*/) {
  not_built();
}

Tensor route_backward(
    const Tensor& /*grad*/,
    const Tensor& /*logits*/,
    const MoeRouting& /*routing*/,
    bool /*softmax_first*/) {
  not_built();
}

bool takes_dispatch(const Tensor& /*experts*/, std::int64_t /*count*/) {
  return false;
}

MoeDispatch dispatch(const Tensor& /*experts*/, std::int64_t /*count*/) {
  not_built();
}

bool takes_router_loss(const Tensor& /*logits*/) {
  return false;
}

std::tuple<Tensor, Tensor> router_loss(
    const Tensor& /*logits*/,
    const Tensor& /*experts*/,
    double /*balance_weight*/,
    double /*z_weight*/) {
  not_built();
}

Tensor router_loss_backward(
    const Tensor& /*grad*/,
    const Tensor& /*logits*/,
    const Tensor& /*counts*/,
    double /*balance_weight*/,
    double /*z_weight*/) {
  not_built();
}

bool takes_embedding(
    const Tensor& /*weight*/,
    const Tensor& /*index*/,
    const Tensor& /*position*/) {
  return false;
}

Tensor embedding(
    const Tensor& /*weight*/,
    const Tensor& /*index*/,
    const Tensor& /*position*/) {
  not_built();
}

bool takes_gelu(const Tensor& /*x*/, const Tensor& /*bias*/) {
  return false;
}

bool gelu_adds_bias(const Tensor& /*x*/) {
  return false;
}

Tensor gelu(const Tensor& /*x*/, const Tensor& /*bias*/) {
  not_built();
}

bool takes_residual_norm(
    const Tensor& /*x*/,
    const Unbiased& /*branch*/,
    const Tensor& /*gain*/,
    const Tensor& /*bias*/) {
  return false;
}

ResidualNorm residual_norm(
    const Tensor& /*x*/,
    const Unbiased& /*branch*/,
    double /*scale*/,
    const Tensor& /*gain*/,
    const Tensor& /*bias*/,
    double /*epsilon*/,
    std::size_t /*readers*/) {
  not_built();
}

bool takes_rms_cap(
    const Tensor& /*core*/,
    const std::optional<Tensor>& /*gain*/,
    torch::ScalarType /*dtype*/) {
  return false;
}

Tensor rms_cap(
    const Tensor& /*core*/,
    const std::optional<Tensor>& /*gain*/,
    double /*max_rms*/,
    torch::ScalarType /*dtype*/) {
  not_built();
}

std::tuple<Tensor, Tensor> rms_cap_backward(
    const Tensor& /*grad*/,
    const Tensor& /*core*/,
    const std::optional<Tensor>& /*gain*/,
    double /*max_rms*/) {
  not_built();
}

bool takes_short_attention(const AttentionInputs& /*inputs*/) {
  return false;
}

bool short_attention_adds_biases(
    const Tensor& /*x*/, std::int64_t /*head_width*/) {
  return false;
}

Tensor short_attention(const AttentionInputs& /*inputs*/) {
  not_built();
}

bool takes_sum_of_rows(const Tensor& /*rows*/, torch::ScalarType /*dtype*/) {
  return false;
}

Tensor sum_of_rows(const Tensor& /*rows*/, torch::ScalarType /*dtype*/) {
  not_built();
}

}  // namespace fused
}  // namespace einforge::ops
