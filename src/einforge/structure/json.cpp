#include "einforge/structure/json.h"

namespace einforge::structure {
namespace {

const char* order_name(const Structure& layer) {
  return layer.dense                                ? "dense"
         : cheaper_order(layer.sizes) == Order::kAB ? "AB"
                                                    : "BA";
}

}  // namespace

base::Json to_json(const Taxonomy& taxonomy) {
  return {
      {"omega", taxonomy.omega}, {"psi", taxonomy.psi}, {"nu", taxonomy.nu}};
}

base::Json to_json(const Structure& layer, std::int64_t base_width) {
  const Sizes& n = layer.sizes;
  const Taxonomy realised = taxonomy(layer);
  base::Json json = {
      {"structure", layer.spec.text},
      {"family", layer.spec.family},
      {"d_in", layer.d_in},
      {"d_out", layer.d_out},
      {"padded_d_in", layer.sizes.d_in()},
      {"padded_d_out", layer.sizes.d_out()},
      {"theta", realised_theta(layer).values()},
      {"theta_asked", layer.spec.theta.values()},
      {"sizes",
       {{"alpha", n.alpha},
        {"beta", n.beta},
        {"gamma", n.gamma},
        {"delta", n.delta},
        {"epsilon", n.epsilon},
        {"phi", n.phi},
        {"rho", n.rho}}},
      {"omega", realised.omega},
      {"psi", realised.psi},
      {"nu", realised.nu},
      {"asymptotic", to_json(taxonomy(layer.spec.theta))},
      {"rank", generic_rank(layer)},
      {"parameters", parameters(layer)},
      {"dense_parameters", layer.d_in * layer.d_out},
      {"macs", macs(layer)},
      {"dense_macs", layer.d_in * layer.d_out},
      {"flops", 2 * macs(layer)},
      {"order", order_name(layer)}};
  base::Json cores = base::Json::array();
  for (const auto& core : parametrisation(layer, base_width)) {
    const char* name = cores.empty() ? "A" : "B";
    cores.push_back(
        {{"core", layer.dense ? "dense" : name},
         {"d_in", core.shape.d_in},
         {"d_out", core.shape.d_out},
         {"init_std", core.init_std},
         {"lr_multiplier", core.lr_multiplier}});
  }
  json["cores"] = cores;
  if (layer.spec.mixture) {
    const Structure one = expert(layer);
    json["experts"] = layer.spec.mixture->experts;
    json["active"] = layer.spec.mixture->active;
    json["expert"] = {
        {"rank", generic_rank(one)},
        {"parameters", parameters(one)},
        {"macs", macs(one)}};
    json["router"] = {
        {"parameters", router_parameters(layer)},
        {"macs", router_parameters(layer)},
        {"init_std", 0},
        {"lr_multiplier", router_lr_multiplier(layer, base_width)}};
  }
  return json;
}

}  // namespace einforge::structure
