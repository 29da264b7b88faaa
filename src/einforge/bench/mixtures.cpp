#include "einforge/bench/mixtures.h"

#include <torch/types.h>

#include <cmath>

#include "einforge/ops/btt_moe_linear.h"
#include "einforge/ops/btt_moe_routed.h"
#include "einforge/ops/btt_moe_table.h"
#include "einforge/ops/moe_grouped.h"
#include "einforge/ops/moe_routing.h"

namespace einforge::bench {
namespace {

using torch::Tensor;

Tensor weight(
    const Machine& machine, c10::IntArrayRef sizes, std::int64_t fan_in) {
  return (random(machine, sizes) / std::sqrt(static_cast<double>(fan_in)))
      .requires_grad_();
}

// Scores of order 1, and what is added to them for the choice.
struct Router {
  Tensor weight;  // (E, d_in)
  std::int64_t active = 1;
  std::optional<Tensor> bias;  // (E)

  ops::MoeRouting route(const Tensor& x) const {
    return ops::moe_route(ops::moe_logits(x, weight), active, {.bias = bias});
  }
};

// "uniform"; "zipf": the i-th expert has about 1/i of what the first has;
// "one_expert": all tokens take the first, and of the others the second.
std::optional<Tensor> bias_of(
    const std::string& routing, std::int64_t experts) {
  if (routing == "uniform") {
    return std::nullopt;
  }
  const Tensor rank = torch::arange(experts, torch::kFloat32);
  return routing == "zipf" ? -torch::log1p(rank) : -1e4 * rank;
}

Router router_of(const LayerCase& which, const Machine& machine) {
  const structure::Mixture mixture = *which.layer.spec.mixture;
  const auto d_in = which.layer.d_in;
  Router router;
  router.weight = (torch::randn(
                       {mixture.experts, d_in},
                       torch::TensorOptions().device(machine.device)) /
                   std::sqrt(static_cast<double>(d_in)))
                      .requires_grad_();
  router.active = mixture.active;
  if (auto bias = bias_of(which.routing, mixture.experts)) {
    router.bias = bias->to(machine.device);
  }
  return router;
}

double largest_share(
    const Router& router, const LayerCase& which, const Machine& machine) {
  const torch::NoGradGuard no_grad;
  const auto routing =
      router.route(random(machine, {which.tokens, which.layer.d_in}));
  const auto counts = ops::moe_counts(routing.experts, router.weight.size(0));
  return counts.max().item<double>() / static_cast<double>(which.tokens);
}

// The kernels of the operator's table that take both passes.
std::vector<std::string> kernel_names(
    const LayerCase& which, const Machine& machine) {
  const structure::Mixture mixture = *which.layer.spec.mixture;
  ops::BttMoeProblem problem{
      .expert =
          {.sizes = which.layer.sizes,
           .tokens = which.tokens,
           .dtype = machine.dtype,
           .device = machine.device.type()},
      .experts = mixture.experts,
      .active = mixture.active};
  std::vector<std::string> names;
  const auto table = machine.device.is_cuda() ? ops::cuda_moe_kernels()
                                              : ops::cpu_moe_kernels();
  for (const auto& kernel : table) {
    problem.expert.pass = ops::Pass::kForward;
    bool supported = kernel.supports(problem);
    problem.expert.pass = ops::Pass::kBackward;
    supported = supported && kernel.supports(problem);
    if (supported) {
      names.emplace_back(kernel.name);
    }
  }
  return names;
}

// Experts of two cores.
std::vector<Implementation> structured(
    const LayerCase& which, const Machine& machine, const Router& router) {
  const structure::Sizes& s = which.layer.sizes;
  const auto experts = router.weight.size(0);
  const Tensor a = ops::expert_core_a_layout(
                       weight(
                           machine,
                           {experts, s.alpha, s.gamma, s.delta, s.phi, s.rho},
                           s.alpha)
                           .detach(),
                       s)
                       .requires_grad_();
  const Tensor b = ops::expert_core_b_layout(
                       weight(
                           machine,
                           {experts, s.beta, s.gamma, s.epsilon, s.phi, s.rho},
                           s.beta * s.gamma * s.rho)
                           .detach(),
                       s)
                       .requires_grad_();
  Implementation mixture{
      .name = "einforge",
      .layer =
          [a, b, router](const Tensor& x) {
            return ops::btt_moe_routed(
                       x,
                       router.weight,
                       a,
                       b,
                       router.active,
                       {.bias = router.bias})
                .y;
          },
      .weights = {router.weight, a, b},
      .macs = static_cast<double>(structure::macs(which.layer)),
      .parameters = static_cast<double>(structure::parameters(which.layer))};
  std::vector<Implementation> result{mixture};
  for (const std::string& name : kernel_names(which, machine)) {
    mixture.name = name;
    mixture.kernel = name;
    result.push_back(mixture);
  }
  return result;
}

// Experts of dense matrices, one after the other with a GELU between.
Implementation dense_experts(
    const std::vector<Tensor>& matrices, const Router& router) {
  double one = 0;
  for (const Tensor& matrix : matrices) {
    one += static_cast<double>(matrix[0].numel());
  }
  const auto experts = router.weight.size(0);
  const auto routers = static_cast<double>(router.weight.numel());
  Implementation result{
      .name = "einforge",
      .layer =
          [matrices, router, experts](const Tensor& x) {
            const auto routing = router.route(x);
            const auto dispatch = ops::moe_dispatch(routing.experts, experts);
            Tensor rows = ops::moe_gather(x, dispatch);
            for (std::size_t i = 0; i < matrices.size(); ++i) {
              rows = ops::moe_grouped_linear(
                  i == 0 ? rows : torch::gelu(rows, "tanh"),
                  matrices[i],
                  dispatch.offsets);
            }
            return ops::moe_combine(rows, dispatch, routing.gates);
          },
      .weights = matrices,
      .macs = static_cast<double>(router.active) * one + routers,
      .parameters = static_cast<double>(experts) * one + routers};
  result.weights.push_back(router.weight);
  return result;
}

Implementation dense_layer(const std::vector<Tensor>& matrices) {
  double size = 0;
  for (const Tensor& matrix : matrices) {
    size += static_cast<double>(matrix.numel());
  }
  return {
      .name = "dense",
      .layer =
          [matrices](Tensor x) {
            for (std::size_t i = 0; i < matrices.size(); ++i) {
              x = torch::linear(
                  i == 0 ? x : torch::gelu(x, "tanh"), matrices[i]);
            }
            return x;
          },
      .weights = matrices,
      .macs = size,
      .parameters = size};
}

}  // namespace

void add_mixture(
    const LayerCase& which, const Machine& machine, Problem& problem) {
  const structure::Structure& layer = which.layer;
  const structure::Mixture mixture = *layer.spec.mixture;
  problem.labels["experts"] = mixture.experts;
  problem.labels["active"] = mixture.active;
  problem.labels["routing"] = which.routing;
  // (d_out, d_in) of the matrices of a dense one.
  std::vector<std::vector<std::int64_t>> shapes{{layer.d_out, layer.d_in}};
  if (layer.spec.family == "ffn_moe") {
    shapes.push_back({layer.d_in, layer.d_out});
    problem.d_out = layer.d_in;
  }
  std::vector<Tensor> one;
  std::vector<Tensor> all;
  for (const auto& shape : shapes) {
    one.push_back(weight(machine, shape, shape[1]));
    if (layer.dense) {
      all.push_back(
          weight(machine, {mixture.experts, shape[0], shape[1]}, shape[1]));
    }
  }
  const Router router = router_of(which, machine);
  problem.labels["largest_share"] = largest_share(router, which, machine);
  problem.implementations = {dense_layer(one)};
  if (layer.dense) {
    problem.implementations.push_back(dense_experts(all, router));
    return;
  }
  for (Implementation& implementation : structured(which, machine, router)) {
    problem.implementations.push_back(std::move(implementation));
  }
}

}  // namespace einforge::bench
