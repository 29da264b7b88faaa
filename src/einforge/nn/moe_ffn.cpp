#include "einforge/nn/moe_ffn.h"

#include <torch/types.h>

#include "einforge/nn/observer.h"
#include "einforge/ops/autocast_dtype.h"
#include "einforge/ops/gelu.h"
#include "einforge/ops/moe_grouped.h"

namespace einforge::nn {
namespace {

structure::Structure dense(std::int64_t d_in, std::int64_t d_out) {
  return structure::realise(structure::parse("dense"), d_in, d_out);
}

MoeOptions with_own_init(MoeOptions options) {
  if (options.router.init_std == RouterOptions::kDefaultInit) {
    options.router.init_std = 1;
  }
  return options;
}

}  // namespace

FfnMoe::FfnMoe(
    std::int64_t width,
    std::int64_t hidden,
    const MoeOptions& options,
    const EinsumLinearOptions& linear,
    const at::Generator& generator,
    std::int64_t hidden_base_width)
    : MoeLayer(width, with_own_init(options), linear.base_width, generator),
      width_(width) {
  const std::int64_t hidden_base =
      hidden_base_width > 0 ? hidden_base_width : linear.base_width;
  const auto add = [&](const char* name,
                       const structure::Structure& matrix,
                       std::int64_t base_width,
                       bool zero) {
    const auto core = structure::parametrisation(matrix, base_width)[0];
    torch::Tensor weight =
        torch::empty(
            {options.experts, matrix.d_out, matrix.d_in}, torch::kFloat64)
            .normal_(0, core.init_std, generator)
            .to(torch::kFloat32);
    if (zero) {
      weight.zero_();
    }
    return add_parameter(
        name, weight, ParameterRule{core.lr_multiplier, /*decay=*/true});
  };
  in_ = add("in", dense(width, hidden), linear.base_width, /*zero=*/false);
  out_ = add("out", dense(hidden, width), hidden_base, linear.zero);
  if (linear.bias) {
    bias_ = add_parameter("bias", torch::zeros({width}));
  }
  if (options.shared_expert) {
    EinsumLinearOptions shared = linear;
    shared.bias = false;
    shared.zero = false;
    shared_in_ = register_module(
        "shared_in",
        std::make_shared<EinsumLinear>(
            dense(width, hidden), shared, generator));
    shared.zero = linear.zero;
    shared.base_width = hidden_base;
    shared_out_ = register_module(
        "shared_out",
        std::make_shared<EinsumLinear>(
            dense(hidden, width), shared, generator));
  }
}

torch::Tensor FfnMoe::forward(
    const torch::Tensor& input, const std::optional<ops::MoeRouting>& given) {
  // Once for the router and the experts, which keep it for backward.
  const torch::Tensor x = ops::in_autocast_dtype(input);
  const ops::MoeRouting routing = route(x, given);
  const ops::MoeDispatch dispatch =
      ops::moe_dispatch(routing.experts, experts());
  const torch::Tensor rows =
      ops::moe_gather(x.reshape({-1, width_}), dispatch);  // (T k, width)
  const torch::Tensor hidden = ops::gelu(
      ops::moe_grouped_linear(rows, in_, dispatch.offsets));  // (T k, hidden)
  torch::Tensor y = ops::moe_combine(
                        ops::moe_grouped_linear(hidden, out_, dispatch.offsets),
                        dispatch,
                        routing.gates)
                        .view(x.sizes());  // (..., width)
  if (shared_in_ != nullptr) {
    y = y + shared_out_->forward(ops::gelu(shared_in_->forward(x)));
  }
  if (bias_.defined()) {
    y = y + bias_.to(y.scalar_type());
  }
  Observer::show(*this, x, y);
  return y;
}

}  // namespace einforge::nn
