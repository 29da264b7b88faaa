#pragma once

#include <memory>

#include "einforge/nn/einsum_linear.h"
#include "einforge/nn/token_layer.h"

namespace einforge::nn {

// A linear layer of a structure that does not fit its widths exactly: zeros
// join the input, the last outputs are dropped.
class PaddedLinear : public TokenLayer {
 public:
  PaddedLinear(
      const structure::Structure& structure,
      const EinsumLinearOptions& options,
      const at::Generator& generator);

  torch::Tensor forward(
      const torch::Tensor& x,
      const std::optional<ops::MoeRouting>& routing = std::nullopt) override;

  ops::Unbiased forward_unbiased(
      const torch::Tensor& x,
      const std::optional<ops::MoeRouting>& routing = std::nullopt) override;

  // The dense matrix that does the same.
  // @return (d_out, d_in)
  torch::Tensor merge();

 private:
  structure::Structure structure_;
  std::shared_ptr<EinsumLinear> inner_;
  torch::Tensor bias_;
};

}  // namespace einforge::nn
