#pragma once

#include <memory>

#include "einforge/models/plan.h"
#include "einforge/nn/moe_layer.h"
#include "einforge/nn/token_layer.h"

namespace einforge::models {

// One layer of a planned kind: an EinsumLinear, or a mixture of them.
std::shared_ptr<nn::TokenLayer> make_linear(
    const LinearPlan& plan,
    const MoeConfig& moe,
    const at::Generator& generator);

// An FFN's mixture of dense networks, whose matrices are planned by `in` and
// `out`.
std::shared_ptr<nn::TokenLayer> make_ffn_moe(
    const LinearPlan& in,
    const LinearPlan& out,
    const MoeConfig& moe,
    const at::Generator& generator);

// gelu(layer(x)), which adds the layer's bias where that saves a pass.
torch::Tensor with_gelu(nn::TokenLayer& layer, const torch::Tensor& x);

// out(gelu(in(x))), in one kernel where that is faster. With `unbiased` the
// bias of `out` may be left to the reader.
ops::Unbiased ffn(
    nn::TokenLayer& in,
    nn::TokenLayer& out,
    const torch::Tensor& x,
    bool unbiased);

// The router that stands before several mixtures like the planned one.
std::shared_ptr<nn::MoeRouter> make_router(
    const LinearPlan& plan,
    const MoeConfig& moe,
    const at::Generator& generator);

}  // namespace einforge::models
