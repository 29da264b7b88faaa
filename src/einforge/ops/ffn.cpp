#include "einforge/ops/ffn.h"

#include <torch/types.h>

#include <optional>

#include "einforge/ops/autocast_dtype.h"
#include "einforge/ops/cuda/ffn.h"
#include "einforge/ops/einsum_linear.h"
#include "einforge/ops/gelu.h"
#include "einforge/ops/kernel_choice.h"

namespace einforge::ops {
namespace {

using torch::Tensor;

FfnLayer cast(const FfnLayer& layer) {
  return {
      in_autocast_dtype(layer.core_a),
      in_autocast_dtype(layer.core_b),
      layer.bias.defined() ? in_autocast_dtype(layer.bias) : layer.bias};
}

Tensor linear(const Tensor& x, const FfnLayer& layer) {
  return einsum_linear(
      x,
      layer.core_a,
      layer.core_b,
      layer.bias.defined() ? std::make_optional(layer.bias) : std::nullopt);
}

}  // namespace

bool ffn_is_fused(const Tensor& x, const FfnProblem& problem) {
  return forced_kernel().empty() && fused::takes_ffn(x, problem) &&
         fused::ffn_is_fastest(x, problem);
}

Tensor ffn(const Tensor& x, const FfnLayer& in, const FfnLayer& out) {
  const FfnProblem problem{
      .in = core_sizes(in.core_a, in.core_b),
      .out = core_sizes(out.core_a, out.core_b),
      .in_bias = in.bias.defined(),
      .out_bias = out.bias.defined()};
  if (ffn_is_fused(x, problem)) {
    return fused::ffn(in_autocast_dtype(x), cast(in), cast(out));
  }
  return linear(ops::gelu(linear(x, in)), out);
}

}  // namespace einforge::ops
