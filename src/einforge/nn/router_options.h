#pragma once

#include <cstdint>
#include <string>

#include "einforge/base/json.h"

namespace einforge::nn {

// Apart from the router, so that configurations need no Torch.
struct RouterOptions {
  std::string gates = "auto";
  std::string reduce = "mean";
  double init_std = kDefaultInit;
  double jitter = 0;
  double balance_weight = 0.01;
  double z_weight = 0.001;
  double bias_rate = 0;

  static constexpr double kDefaultInit = -1;

  template <typename Self, typename Visit>
  static void fields(Self& self, Visit&& visit) {
    visit(
        "gates",
        self.gates,
        "softmax over the `chosen` experts, or over `all` of which the chosen "
        "take their shares; auto: chosen, and all where a token takes one "
        "expert");
    visit(
        "reduce",
        self.reduce,
        "mean or sum of the losses of all routers of the model");
    visit(
        "init_std",
        self.init_std,
        "standard deviation of a router's initial weights x sqrt(d_in); -1: 1 "
        "for ffn_moe, 0 for the other mixtures");
    visit(
        "jitter",
        self.jitter,
        "in training the router sees each feature times a number in "
        "[1 - jitter, 1 + jitter]");
    visit(
        "balance_weight",
        self.balance_weight,
        "weight of the load-balancing loss, experts x sum(probability x load)");
    visit("z_weight", self.z_weight, "weight of the mean squared log-sum-exp");
    visit(
        "bias_rate",
        self.bias_rate,
        "step of the balancing bias, which makes the choice of overloaded "
        "experts rarer without a loss; 0 is off, 0.001 usual");
  }
  // Reads what a version before `gates` wrote: softmax_first, true or false.
  static void prepare(RouterOptions& options, base::Json& json);

  // Whether a token's gates are shares of a softmax over all experts. With one
  // expert per token, a softmax over the chosen is 1 whatever the router does,
  // which then learns nothing.
  bool softmax_over_all(std::int64_t active) const {
    return gates == "all" || (gates == "auto" && active == 1);
  }
  // Of this many experts and active ones. Throws base::InvalidInput where gates
  // are asked for that leave the router without a gradient.
  void check_gates(std::int64_t experts, std::int64_t active) const;

  // Throws base::InvalidInput for an unknown word, a negative number or a
  // jitter of 1 or more.
  void validate() const;
  bool operator==(const RouterOptions&) const = default;
};

}  // namespace einforge::nn
