#pragma once

#include <cstdint>

#include "einforge/nn/layer.h"
#include "einforge/structure/structure.h"

namespace einforge::nn {

struct EinsumLinearOptions {
  bool bias = true;
  // Starts at zero: the layer ends a residual branch or is the head. The last
  // core contracted is the one that is zero, so that the other one's gradient
  // comes alive after one step.
  bool zero = false;
  // A learned scalar gain on each core; off for queries and keys that pass
  // through a LayerNorm, which would undo it.
  bool gamma = true;
  // The d_in at which a dense layer's learning rate multiplier is 1.
  std::int64_t base_width = 768;
};

// A linear layer of any structure with the parametrisation that lets one
// learning rate serve all structures and widths: y = einsum_linear(x, A, B)
// with A = gamma_A cap(core_a), cap(M) = M / max(1, rms(M) / init_std) and B
// likewise. Dense is one plain muP matrix, y = W x, without cap and gamma.
// Source: arXiv 2410.02117, section 5.
class EinsumLinear : public Layer {
 public:
  EinsumLinear(
      const structure::Structure& structure,
      const EinsumLinearOptions& options,
      const at::Generator& generator);

  // @param x (..., d_in)
  // @return (..., d_out)
  torch::Tensor forward(const torch::Tensor& x);

  // The dense matrix that does the same: forward(x) = x merge()^T + bias.
  // @return (d_out, d_in)
  torch::Tensor merge();

  const structure::Structure& structure() const { return structure_; }
  // (d_out), or undefined.
  const torch::Tensor& bias() const { return bias_; }
  // (d_out, d_in) when the structure is dense, undefined otherwise.
  const torch::Tensor& weight() const { return weight_; }

 private:
  // The core as the operator takes it: indices in the operator's order (a view
  // of the stored one), capped, scaled.
  torch::Tensor core_a() const;
  torch::Tensor core_b() const;

  structure::Structure structure_;
  torch::Tensor weight_;
  torch::Tensor core_a_;
  torch::Tensor core_b_;
  torch::Tensor gamma_a_;
  torch::Tensor gamma_b_;
  torch::Tensor bias_;
  double max_rms_a_ = 0;
  double max_rms_b_ = 0;
};

}  // namespace einforge::nn
