#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "einforge/nn/layer.h"
#include "einforge/nn/router_options.h"
#include "einforge/ops/moe_routing.h"

namespace einforge::nn {

// What a router did with the tokens of its last forward pass.
struct RouterHealth {
  std::vector<std::int64_t> tokens;  // of each expert; their sum is T k
  double token_entropy = 0;      // nats; mean over tokens of H(softmax(logits))
  double aggregate_entropy = 0;  // nats; of the experts' shares of assignments
  double balance_loss = 0;       // E sum_i p_i f_i, 1 when even
  double z_loss = 0;             // mean squared log-sum-exp
  std::int64_t dead = 0;         // experts without a token
  double largest_share = 0;      // the busiest expert's share of all tokens
};

// Picks k of E experts for each token: logits = W x, without a bias; the k
// highest; gates by a softmax over the chosen, or over all E where k is 1.
// Training adds a loss that keeps the load even; its weights are in the
// options:
//
//   balance_weight E sum_i(p_i f_i) + z_weight mean(logsumexp(logits)^2)
//
// p_i the mean over tokens of softmax(logits)_i, f_i the share of assignments
// that expert i has. Or, free of a loss: a bias b_i, added to the logits for
// the choice only, that moves by bias_rate sign(mean load - load_i) per step.
//
// The logits are float32 whatever autocast says.
// Source: arXiv 2410.02117, section 6; arXiv 2101.03961, section 2.2 (load),
// arXiv 2202.08906, section 3.1 (z-loss); arXiv 2408.15664 (bias).
class MoeRouter : public Layer {
 public:
  // @param options an init_std of -1 is 0
  // @param base_width the d_in at which the learning rate's multiplier is 1
  // @param generator of the initial weights; not drawn from where init_std is 0
  // @throw std::invalid_argument when active is not in 1 to experts
  // @throw base::InvalidInput for options that make no router
  MoeRouter(
      std::int64_t d_in,
      std::int64_t experts,
      std::int64_t active,
      const RouterOptions& options,
      std::int64_t base_width = 768,
      const at::Generator& generator = {});

  // @param x (..., d_in)
  // @return experts (T, k) int32 and gates (T, k)
  ops::MoeRouting forward(const torch::Tensor& x);

  // The same, and at once the mixture of two-core layers that uses it.
  //
  // @param bias (d_out), added to the mixture
  // @return (..., d_out)
  torch::Tensor forward_btt(
      const torch::Tensor& x,
      const torch::Tensor& core_a,
      const torch::Tensor& core_b,
      const std::optional<torch::Tensor>& bias = std::nullopt);

  // The weighted loss of the last forward pass, to be added to the model's; no
  // dimensions. Undefined unless that was in training mode and had tokens.
  const torch::Tensor& auxiliary_loss() const { return auxiliary_loss_; }

  // Where a batch is spread over processes, f_i is that of all of it: a pass
  // in training mode then leaves counts() and no loss, until finish_loss() is
  // given the sum of all processes' counts.
  void wait_for_counts(bool wait) { waits_ = wait; }
  // Assignments of each expert, (E) int64; undefined where no loss waits.
  const torch::Tensor& counts() const { return counts_; }
  void finish_loss(const torch::Tensor& counts);

  // What a forward pass showed it, detached: logits (T, E), and the chosen
  // experts (T, k) int32.
  struct Seen {
    torch::Tensor logits;
    torch::Tensor chosen;
  };
  // Of the last forward pass, and to put another in its place.
  const Seen& seen() const { return seen_; }
  void set_seen(Seen seen) { seen_ = std::move(seen); }

  // Of seen(), on the device: what health is made of, (2 E + 2) float64. Those
  // of processes that have as many tokens each may be added.
  // @throw std::logic_error before a pass that had tokens
  torch::Tensor health_sums() const;
  // @param sums on the CPU, of so many processes
  RouterHealth health(const torch::Tensor& sums, int processes = 1) const;
  // Of seen(); waits for the device.
  RouterHealth health() const { return health(health_sums().cpu()); }

  // Moves the balancing bias by the load since the last call; for the trainer,
  // once an optimiser step. Nothing without a bias_rate. Does not wait for the
  // device.
  void update_bias();

  std::int64_t experts() const { return experts_; }
  std::int64_t active() const { return active_; }

 private:
  bool jitters() const;
  ops::MoeRouteOptions route_options() const;
  // Keeps what health() returns, and computes the loss.
  void observe(const torch::Tensor& logits, const torch::Tensor& chosen);

  std::int64_t experts_;
  std::int64_t active_;
  RouterOptions options_;
  torch::Tensor weight_;  // (E, d_in)
  // Buffers, so that they follow the module and its checkpoints; undefined
  // without a bias_rate.
  torch::Tensor bias_;  // (E), float32
  torch::Tensor load_;  // (E), int64: since the last update
  Seen seen_;
  torch::Tensor auxiliary_loss_;
  bool waits_ = false;
  torch::Tensor counts_;
  torch::Tensor waiting_logits_;  // with their graph
};

// All routers of a module, by their dotted names, in order of registration; a
// router that several layers share comes once.
std::vector<std::pair<std::string, MoeRouter*>> routers(
    torch::nn::Module& module);

// The mean or the sum of their losses, see RouterOptions; undefined where none
// has one.
torch::Tensor auxiliary_loss(
    const std::vector<std::pair<std::string, MoeRouter*>>& routers,
    const std::string& reduce);

}  // namespace einforge::nn
