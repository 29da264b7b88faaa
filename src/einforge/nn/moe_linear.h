#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "einforge/nn/einsum_linear.h"
#include "einforge/nn/moe_layer.h"

namespace einforge::nn {

// A mixture of E linear layers of one structure, of which each token takes k:
//
//   y = sum_j gates_j linear_{experts_j}(x) [+ shared(x)] + bias
//
// With a BTT structure of rank 1 it is the paper's BTT-MoE; mixtures of low
// rank and of dense matrices are its baselines. Only the chosen experts are
// computed.
//
// Each expert has the initial values, learning rates and RMS cap of an
// EinsumLinear of its structure; the cap is on the RMS of all experts' cores
// together, and they share the gains.
// Source: arXiv 2410.02117, section 6.
class MoeLinear : public MoeLayer {
 public:
  // @param expert the structure of one expert; its n_rho is an expert's rank
  // @param linear as for an EinsumLinear: one bias for the mixture, and `zero`
  //   makes the last core of every expert zero
  // @throw std::invalid_argument when active is not in 1 to experts
  MoeLinear(
      const structure::Structure& expert,
      const MoeOptions& options,
      const EinsumLinearOptions& linear,
      const at::Generator& generator);

  torch::Tensor forward(
      const torch::Tensor& x,
      const std::optional<ops::MoeRouting>& routing = std::nullopt) override;

  ops::Unbiased forward_unbiased(
      const torch::Tensor& x,
      const std::optional<ops::MoeRouting>& routing = std::nullopt) override;

  const structure::Structure& expert() const { return expert_; }

 private:
  // A bias that is undefined is not added.
  torch::Tensor apply(
      const torch::Tensor& input,
      const std::optional<ops::MoeRouting>& given,
      const torch::Tensor& bias);
  // Without the shared expert.
  torch::Tensor mix(
      const torch::Tensor& x,
      const std::optional<ops::MoeRouting>& given,
      const torch::Tensor& bias);

  structure::Structure expert_;
  bool cap_;
  torch::Tensor weight_;  // (E, d_out, d_in) of dense experts
  torch::Tensor core_a_;  // (E, alpha, gamma, delta, phi, rho) of others
  torch::Tensor core_b_;  // (E, beta, gamma, epsilon, phi, rho)
  torch::Tensor gain_a_;
  torch::Tensor gain_b_;
  torch::Tensor bias_;  // (d_out) or undefined
  double max_rms_a_ = 0;
  double max_rms_b_ = 0;
  std::shared_ptr<EinsumLinear> shared_;  // or null
};

}  // namespace einforge::nn
