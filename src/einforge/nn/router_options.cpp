#include "einforge/nn/router_options.h"

#include "einforge/base/error.h"

namespace einforge::nn {

void RouterOptions::prepare(RouterOptions& options, base::Json& json) {
  const auto old = json.find("softmax_first");
  if (old == json.end() || !old->is_boolean() || json.contains("gates")) {
    return;
  }
  // False was the default, so that it need not have been meant.
  options.gates = old->get<bool>() ? "all" : "auto";
  json.erase("softmax_first");
}

void RouterOptions::check_gates(
    std::int64_t experts, std::int64_t active) const {
  base::check(
      gates != "chosen" || active != 1 || experts == 1,
      "router: expected gates all or auto where a token takes one expert, "
      "whose softmax over the chosen is always 1 and gives the router no "
      "gradient; got chosen");
}

void RouterOptions::validate() const {
  base::check(
      gates == "auto" || gates == "chosen" || gates == "all",
      "router: expected gates auto, chosen or all; got '{}'",
      gates);
  base::check(
      reduce == "mean" || reduce == "sum",
      "router: expected reduce mean or sum; got '{}'",
      reduce);
  base::check(
      init_std >= 0 || init_std == kDefaultInit,
      "router: expected init_std of at least 0, or -1; got {}",
      init_std);
  base::check(
      jitter >= 0 && jitter < 1,
      "router: expected jitter in [0, 1); got {}",
      jitter);
  const auto check_positive = [](const char* name, double value) {
    base::check(
        value >= 0, "router: expected {} of at least 0; got {}", name, value);
  };
  check_positive("balance_weight", balance_weight);
  check_positive("z_weight", z_weight);
  check_positive("bias_rate", bias_rate);
}

}  // namespace einforge::nn
