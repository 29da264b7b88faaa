#include "einforge/ops/cuda/btt_moe_fused.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>

#include <cstdint>
#include <limits>

#include "einforge/kernels/cuda/btt_backward.h"
#include "einforge/kernels/cuda/btt_pinned.h"
#include "einforge/kernels/cuda/moe_rows.h"
#include "einforge/ops/cuda/btt_operands.h"
#include "einforge/ops/cuda/btt_tuner.h"
#include "einforge/ops/moe_routing.h"

namespace einforge::ops {
namespace {

namespace ek = kernels::cuda;
using torch::Tensor;

// The pairs in the order of their experts, as the kernels take them.
struct Dispatch {
  MoeDispatch pairs;
  ek::RoutedRows rows;

  Dispatch(const Tensor& experts, std::int64_t count)
      : pairs(moe_dispatch(experts, count)),
        rows{
            .offsets = pairs.offsets.const_data_ptr<std::int32_t>(),
            .order = pairs.order.const_data_ptr<std::int32_t>(),
            .experts = static_cast<int>(count),
            .active = static_cast<int>(experts.size(1)),
            .pairs = static_cast<int>(experts.numel())} {}
};

// A problem as the kernels see it: the core contracted first is A.
struct Layer {
  ek::BttSizes sizes;
  ek::BttCores cores;
  bool ab;

  Layer(const BttMoeProblem& problem, const BttMoeOperands& operands)
      : Layer(Contraction(problem.expert.sizes), operands) {}
  Layer(const Contraction& c, const BttMoeOperands& operands)
      : sizes(btt::sizes_of(c)), ab(c.ab()) {
    const Tensor& first = ab ? operands.core_a : operands.core_b;
    const Tensor& second = ab ? operands.core_b : operands.core_a;
    cores = btt::cores_of(first, second);
    cores.experts = static_cast<int>(first.size(0));
    cores.a_expert = first.stride(0);
    cores.b_expert = second.stride(0);
  }
};

// Every pair's row of the layer: (pairs, d_out).
Tensor run_rows(
    const ek::BttSizes& sizes,
    const ek::BttCores& cores,
    const Tensor& x,
    const ek::RoutedRows& rows) {
  const auto stream = c10::cuda::getCurrentCUDAStream();
  const Tensor packed = btt::workspace(
      x, static_cast<std::size_t>(cores.experts) * ek::btt_packed_bytes(sizes));
  Tensor y = torch::empty({rows.pairs, sizes.d_out()}, x.options());
  const ek::BttLaunch launch{
      .x = btt::data(x),
      .y = btt::mutable_data(y),
      .x_stride = sizes.d_in(),
      .y_stride = sizes.d_out(),
      .tokens = x.size(0),
      .packed = packed.mutable_data_ptr()};
  ek::BttPlan plan;
  plan.kernel = ek::BttKernel::kPinned;
  C10_CUDA_CHECK(ek::btt_pack(sizes, cores, launch.packed, stream, plan));
  C10_CUDA_CHECK(
      ek::pinned_routed_forward(sizes, launch, rows, device_limits(), stream));
  return y;
}

bool supports(const BttMoeProblem& problem) {
  const EinsumLinearProblem& expert = problem.expert;
  if (expert.dtype != torch::kBFloat16 ||
      expert.device != torch::DeviceType::CUDA ||
      problem.experts > ek::kMoeExperts || problem.active > ek::kMoeActive ||
      expert.tokens * problem.active > std::numeric_limits<int>::max() / 2) {
    return false;
  }
  const Contraction c(expert.sizes);
  if (!btt::is_btt(c)) {
    return false;
  }
  const ek::BttSizes sizes = btt::sizes_of(c);
  const ek::DeviceLimits& limits = device_limits();
  if (expert.pass == Pass::kForward) {
    return ek::pinned_routed_supports(sizes, limits);
  }
  return ek::pinned_routed_supports(sizes.transposed(), limits) &&
         ek::btt_backward_supports(sizes, limits);
}

Tensor forward(const BttMoeProblem& problem, const BttMoeOperands& operands) {
  const Layer layer(problem, operands);
  const Dispatch dispatch(operands.experts, problem.experts);
  const Tensor x = btt::aligned(operands.x);
  const Tensor rows = run_rows(layer.sizes, layer.cores, x, dispatch.rows);
  const Tensor gates = operands.gates.to(torch::kFloat32);
  Tensor y = torch::empty({x.size(0), layer.sizes.d_out()}, x.options());
  C10_CUDA_CHECK(ek::moe_combine(
      {.rows = btt::data(rows),
       .gates = gates.const_data_ptr<float>(),
       .tokens = x.size(0),
       .active = dispatch.rows.active,
       .width = layer.sizes.d_out(),
       .sum = btt::mutable_data(y)},
      c10::cuda::getCurrentCUDAStream()));
  return y;
}

// With r = rows of the transposed layer on dy: dx[t] = sum_j g[t,j] r[t,j], and
// since <dy, layer(x)> = <r, x>, dg[t,j] = r[t,j] . x[t].
BttMoeGradients backward(
    const BttMoeProblem& problem,
    const Tensor& grad,
    const BttMoeOperands& operands,
    const GradientMask& mask) {
  const Layer layer(problem, operands);
  const Dispatch dispatch(operands.experts, problem.experts);
  const auto stream = c10::cuda::getCurrentCUDAStream();
  const Tensor x = btt::aligned(operands.x);
  const Tensor dy = btt::aligned(grad);
  const Tensor gates = operands.gates.to(torch::kFloat32);
  BttMoeGradients result;
  if (mask[0] || mask[3]) {
    const Tensor rows = run_rows(
        layer.sizes.transposed(), layer.cores.transposed(), dy, dispatch.rows);
    result.x = mask[0] ? torch::empty_like(x) : Tensor();
    result.gates = mask[3] ? torch::empty_like(gates) : Tensor();
    C10_CUDA_CHECK(ek::moe_combine(
        {.rows = btt::data(rows),
         .gates = gates.const_data_ptr<float>(),
         .tokens = x.size(0),
         .active = dispatch.rows.active,
         .width = layer.sizes.d_in(),
         .sum = mask[0] ? btt::mutable_data(result.x) : nullptr,
         .other = mask[3] ? btt::data(x) : nullptr,
         .dots = mask[3] ? result.gates.mutable_data_ptr<float>() : nullptr},
        stream));
    if (mask[3]) {
      result.gates = result.gates.to(operands.gates.scalar_type());
    }
  }
  if (mask[1] || mask[2]) {
    result.core_a = torch::empty_like(operands.core_a);
    result.core_b = torch::empty_like(operands.core_b);
    const Tensor& first = layer.ab ? result.core_a : result.core_b;
    const Tensor& second = layer.ab ? result.core_b : result.core_a;
    const ek::DeviceLimits& limits = device_limits();
    const Tensor partials = btt::workspace(
        x,
        ek::btt_backward_bytes(
            layer.sizes, dispatch.rows.pairs, layer.cores.experts, limits));
    C10_CUDA_CHECK(ek::btt_backward(
        layer.sizes,
        layer.cores,
        {.x = btt::data(x),
         .dy = btt::data(dy),
         .tokens = x.size(0),
         .workspace = partials.mutable_data_ptr(),
         .da = btt::mutable_data(first),
         .db = btt::mutable_data(second),
         .da_strides = btt::strides_of(first, /*first=*/true),
         .db_strides = btt::strides_of(second, /*first=*/false),
         .rows = dispatch.rows,
         .gates = gates.const_data_ptr<float>(),
         .da_expert = first.stride(0),
         .db_expert = second.stride(0)},
        limits,
        stream));
  }
  return result;
}

}  // namespace

BttMoeKernel fused_moe_kernel() {
  return {
      .name = "fused",
      .supports = supports,
      .forward = forward,
      .backward = backward};
}

}  // namespace einforge::ops
