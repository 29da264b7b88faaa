#include "einforge/ops/cuda/merge.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>

#include "einforge/kernels/cuda/merge.h"
#include "einforge/ops/cuda/btt_operands.h"
#include "einforge/ops/cuda/device.h"

namespace einforge::ops::fused {
namespace {

namespace ek = kernels::cuda;
using structure::Sizes;
using torch::Tensor;

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

// (out, phi, rho, in, gamma)
Tensor gamma_innermost(const Tensor& core) {
  return btt::aligned(core.permute({2, 3, 4, 0, 1}).contiguous());
}

ek::MergeCoreStrides strides_of(const Tensor& core) {
  return {
      .in = core.stride(0),
      .gamma = core.stride(1),
      .out = core.stride(2),
      .phi = core.stride(3),
      .rho = core.stride(4)};
}

}  // namespace

bool takes_merge(const Sizes& sizes, const Tensor& core) {
  return architecture_supported(core) &&
         core.scalar_type() == torch::kBFloat16 &&
         ek::merge_supports(merge_sizes(sizes));
}

Tensor merge(const Sizes& sizes, const Tensor& core_a, const Tensor& core_b) {
  const Tensor a = gamma_innermost(core_a);
  const Tensor b = gamma_innermost(core_b);
  Tensor w = torch::empty({sizes.d_out(), sizes.d_in()}, a.options());
  C10_CUDA_CHECK(ek::merge_cores(
      merge_sizes(sizes),
      btt::data(a),
      btt::data(b),
      btt::mutable_data(w),
      c10::cuda::getCurrentCUDAStream()));
  return w;
}

std::array<Tensor, 2> merge_gradients(
    const Sizes& sizes,
    const Tensor& core_a,
    const Tensor& core_b,
    const Tensor& grad,
    std::array<bool, 2> asked) {
  std::array<Tensor, 2> result;
  const auto operand = [](const Tensor& core) -> ek::MergeCore {
    return {btt::data(core), strides_of(core)};
  };
  // In the core's own strides, so that nobody has to copy it.
  const auto gradient = [](bool is_asked, const Tensor& core, Tensor& found) {
    ek::MergeCoreGradient wanted;
    if (is_asked) {
      found = torch::empty_like(core);
      wanted = {btt::mutable_data(found), strides_of(found)};
    }
    return wanted;
  };
  C10_CUDA_CHECK(ek::merge_gradients(
      merge_sizes(sizes),
      btt::data(grad),
      operand(core_a),
      operand(core_b),
      gradient(asked[0], core_a, result[0]),
      gradient(asked[1], core_b, result[1]),
      c10::cuda::getCurrentCUDAStream()));
  return result;
}

}  // namespace einforge::ops::fused
