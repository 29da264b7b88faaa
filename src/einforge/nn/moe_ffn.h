#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "einforge/nn/einsum_linear.h"
#include "einforge/nn/moe_layer.h"

namespace einforge::nn {

// The standard mixture of experts, a baseline: E dense two-layer networks in
// place of a transformer's feed-forward one, of which each token takes k:
//
//   y = sum_j gates_j out_{experts_j} gelu(in_{experts_j} x) [+ shared] + bias
//
// Experts have no biases; their parametrisation is that of dense layers.
// Source: arXiv 2101.03961.
class FfnMoe : public MoeLayer {
 public:
  // A router that has its default init_std starts with entries N(0, 1 / width),
  // as in the paper's code.
  //
  // @param linear one bias for the mixture; `zero` makes every out_e zero;
  //   cap and gain have no meaning; base_width is that of `width`
  // @param hidden_base_width that of `hidden`; 0: the same
  // @throw std::invalid_argument when active is not in 1 to experts
  FfnMoe(
      std::int64_t width,
      std::int64_t hidden,
      const MoeOptions& options,
      const EinsumLinearOptions& linear,
      const at::Generator& generator,
      std::int64_t hidden_base_width = 0);

  torch::Tensor forward(
      const torch::Tensor& x,
      const std::optional<ops::MoeRouting>& routing = std::nullopt) override;

 private:
  std::int64_t width_;
  torch::Tensor in_;                         // (E, hidden, width)
  torch::Tensor out_;                        // (E, width, hidden)
  torch::Tensor bias_;                       // (width) or undefined
  std::shared_ptr<EinsumLinear> shared_in_;  // or null
  std::shared_ptr<EinsumLinear> shared_out_;
};

}  // namespace einforge::nn
