#include "einforge/nn/moe_layer.h"

#include <stdexcept>

namespace einforge::nn {

MoeLayer::MoeLayer(
    std::int64_t d_in,
    const MoeOptions& options,
    std::int64_t base_width,
    const at::Generator& generator)
    : options_(options) {
  if (!options.external_router) {
    router_ = register_module(
        "router",
        std::make_shared<MoeRouter>(
            d_in,
            options.experts,
            options.active,
            options.router,
            base_width,
            generator));
  }
}

ops::MoeRouting MoeLayer::route(
    const torch::Tensor& x, const std::optional<ops::MoeRouting>& given) {
  if (given) {
    return *given;
  }
  if (router_ == nullptr) {
    throw std::logic_error(
        "nn: a mixture of experts without a router needs a routing");
  }
  return router_->forward(x);
}

}  // namespace einforge::nn
