#include "einforge/nn/moe_router.h"

#include <fmt/format.h>
#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <tuple>
#include <utility>

#include "einforge/base/error.h"
#include "einforge/nn/observer.h"
#include "einforge/ops/btt_moe_linear.h"
#include "einforge/ops/btt_moe_routed.h"
#include "einforge/ops/moe_router_loss.h"

namespace einforge::nn {
namespace {

// -sum p log p over the last dimension, in nats.
torch::Tensor entropy(const torch::Tensor& p) {
  return -torch::special_xlogy(p, p).sum(-1);
}

// How often each expert is chosen, (E) int64.
torch::Tensor count(const torch::Tensor& chosen, std::int64_t experts) {
  const torch::Tensor index = chosen.flatten().to(torch::kInt64);
  return torch::zeros({experts}, index.options())
      .scatter_add_(0, index, torch::ones_like(index));
}

}  // namespace

MoeRouter::MoeRouter(
    std::int64_t d_in,
    std::int64_t experts,
    std::int64_t active,
    const RouterOptions& options,
    std::int64_t base_width,
    const at::Generator& generator)
    : experts_(experts), active_(active), options_(options) {
  options.validate();
  options.check_gates(experts, active);
  if (active < 1 || active > experts) {
    throw std::invalid_argument(fmt::format(
        "[moe_router] expected active in 1 to {} experts; got {}",
        experts,
        active));
  }
  torch::Tensor initial = torch::zeros({experts, d_in}, torch::kFloat64);
  if (options.init_std > 0) {
    const double std = options.init_std / std::sqrt(static_cast<double>(d_in));
    initial.normal_(0, std, generator);
  }
  weight_ = add_parameter(
      "weight",
      initial.to(torch::kFloat32),
      {static_cast<double>(base_width) / static_cast<double>(d_in),
       /*decay=*/true});
  if (options.bias_rate > 0) {
    bias_ = register_buffer("bias", torch::zeros({experts}));
    load_ = register_buffer("load", torch::zeros({experts}, torch::kInt64));
  }
}

ops::MoeRouting MoeRouter::forward(const torch::Tensor& x) {
  torch::Tensor seen = x;
  if (jitters()) {
    seen = x * (1 + options_.jitter * (2 * torch::rand_like(x) - 1));
  }
  const torch::Tensor logits = ops::moe_logits(seen, weight_);  // (T, E)
  ops::MoeRouting routing = ops::moe_route(logits, active_, route_options());
  observe(logits, routing.experts);
  return routing;
}

torch::Tensor MoeRouter::forward_btt(
    const torch::Tensor& x,
    const torch::Tensor& core_a,
    const torch::Tensor& core_b,
    const std::optional<torch::Tensor>& bias) {
  if (jitters()) {
    const ops::MoeRouting routing = forward(x);
    const torch::Tensor y = ops::btt_moe_linear(
        x, core_a, core_b, routing.experts, routing.gates);  // (..., d_out)
    return bias ? y + bias->to(y.scalar_type()) : y;
  }
  const ops::BttMoeRouted routed = ops::btt_moe_routed(
      x, weight_, core_a, core_b, active_, route_options(), bias);
  observe(routed.logits, routed.routing.experts);
  return routed.y;
}

bool MoeRouter::jitters() const {
  return is_training() && options_.jitter > 0;
}

ops::MoeRouteOptions MoeRouter::route_options() const {
  ops::MoeRouteOptions options{
      .softmax_first = options_.softmax_over_all(active_)};
  if (bias_.defined()) {
    options.bias = bias_;
  }
  return options;
}

void MoeRouter::observe(
    const torch::Tensor& logits, const torch::Tensor& chosen) {
  Observer::show(*this, {}, logits);
  seen_ = {logits.detach(), chosen};
  auxiliary_loss_ = torch::Tensor();
  counts_ = torch::Tensor();
  if (is_training() && waits_) {
    counts_ = count(chosen, experts_);
    waiting_logits_ = logits;
  } else if (is_training() && logits.size(0) > 0) {
    torch::Tensor counts;  // (E)
    std::tie(auxiliary_loss_, counts) = ops::moe_router_loss(
        logits, chosen, options_.balance_weight, options_.z_weight);
    if (load_.defined()) {
      load_.add_(counts);
    }
  }
}

void MoeRouter::finish_loss(const torch::Tensor& counts) {
  const torch::Tensor logits = std::exchange(waiting_logits_, torch::Tensor());
  counts_ = torch::Tensor();
  if (load_.defined()) {
    load_.add_(counts);
  }
  auxiliary_loss_ = torch::zeros({}, logits.options());
  if (options_.balance_weight > 0) {
    const torch::Tensor share = counts / counts.sum();  // (E)
    const torch::Tensor p = logits.softmax(-1).mean(0);
    auxiliary_loss_ = auxiliary_loss_ +
                      options_.balance_weight * static_cast<double>(experts_) *
                          (p * share.to(p.scalar_type())).sum();
  }
  if (options_.z_weight > 0) {
    auxiliary_loss_ = auxiliary_loss_ +
                      options_.z_weight * logits.logsumexp(-1).square().mean();
  }
}

torch::Tensor MoeRouter::health_sums() const {
  if (!seen_.logits.defined() || seen_.logits.size(0) == 0) {
    throw std::logic_error("nn: a router that saw no token has no health");
  }
  const torch::NoGradGuard no_grad;
  // Reduced where it lies: the logits are (T, E).
  const torch::Tensor logits = seen_.logits.to(torch::kFloat64);
  const torch::Tensor p = logits.softmax(-1);
  return torch::cat(
      {count(seen_.chosen, experts_).to(torch::kFloat64),
       p.mean(0),
       torch::stack(
           {entropy(p).mean(), logits.logsumexp(-1).square().mean()})});
}

RouterHealth MoeRouter::health(const torch::Tensor& sums, int processes) const {
  const torch::Tensor load = sums.narrow(0, 0, experts_);
  const torch::Tensor share = load / load.sum();
  RouterHealth health;
  const double* value = sums.const_data_ptr<double>();
  for (std::int64_t e = 0; e < experts_; ++e) {
    health.tokens.push_back(static_cast<std::int64_t>(value[e]));
  }
  value += experts_;
  // No -0.0 where one expert has all.
  health.aggregate_entropy = entropy(share).item<double>() + 0.0;
  health.balance_loss =
      static_cast<double>(experts_) *
      (share * sums.narrow(0, experts_, experts_)).sum().item<double>() /
      processes;
  value += experts_;
  health.token_entropy = *value++ / processes;
  health.z_loss = *value++ / processes;
  health.dead = std::ranges::count(health.tokens, 0);
  health.largest_share = load.max().item<double>() *
                         static_cast<double>(active_) /
                         load.sum().item<double>();
  return health;
}

void MoeRouter::update_bias() {
  if (!bias_.defined()) {
    return;
  }
  const torch::NoGradGuard no_grad;
  // E load_i against the sum: whole numbers, so that even is exactly even.
  const torch::Tensor excess = load_.sum() - load_ * experts_;  // (E)
  bias_.add_(excess.sign(), options_.bias_rate);
  load_.zero_();
}

std::vector<std::pair<std::string, MoeRouter*>> routers(
    torch::nn::Module& module) {
  std::vector<std::pair<std::string, MoeRouter*>> found;
  for (const auto& item :
       module.named_modules(/*name_prefix=*/"", /*include_self=*/false)) {
    auto* router = dynamic_cast<MoeRouter*>(item.value().get());
    if (router != nullptr &&
        std::ranges::find(
            found, router, &std::pair<std::string, MoeRouter*>::second) ==
            found.end()) {
      found.emplace_back(item.key(), router);
    }
  }
  return found;
}

torch::Tensor auxiliary_loss(
    const std::vector<std::pair<std::string, MoeRouter*>>& routers,
    const std::string& reduce) {
  std::vector<torch::Tensor> losses;
  for (const auto& [name, router] : routers) {
    if (router->auxiliary_loss().defined()) {
      losses.push_back(router->auxiliary_loss());
    }
  }
  if (losses.empty()) {
    return {};
  }
  const torch::Tensor all = torch::stack(losses);
  return reduce == "sum" ? all.sum() : all.mean();
}

}  // namespace einforge::nn
