#pragma once

namespace einforge::nn {

// Apart from the router, so that configurations need no Torch.
struct RouterOptions {
  bool softmax_first = false;
  double jitter = 0;
  double balance_weight = 0.01;
  double z_weight = 0.001;
  double bias_rate = 0;

  template <typename Self, typename Visit>
  static void fields(Self& self, Visit&& visit) {
    visit(
        "softmax_first",
        self.softmax_first,
        "gates are the chosen experts' shares of a softmax over all experts, "
        "not over the chosen");
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
        "step of the balancing bias, which makes the choice of crowded experts "
        "rarer without a loss; 0 is off, 0.001 usual");
  }
  // @throw base::InvalidInput for a negative number or a jitter of 1 or more
  void validate() const;
  bool operator==(const RouterOptions&) const = default;
};

}  // namespace einforge::nn
