#pragma once

#include <array>
#include <cstdint>

#include "einforge/nn/token_layer.h"
#include "einforge/ops/ffn.h"
#include "einforge/structure/structure.h"

namespace einforge::nn {

struct EinsumLinearOptions {
  bool bias = true;
  // Starts at zero: the layer ends a residual branch or is the head. The last
  // core contracted is the one that is zero, so that the other one's gradient
  // comes alive after one step.
  bool zero = false;
  // Caps the RMS of each core at that of its initial values; without it long
  // runs of structured layers diverge.
  bool cap = true;
  // With the cap, a learned scalar gain on each core; off for queries and keys
  // that pass through a LayerNorm, which would undo it.
  bool gain = true;
  // The d_in at which a dense layer's learning rate multiplier is 1.
  std::int64_t base_width = 768;
};

// A linear layer of any structure with the parametrisation that lets one
// learning rate serve all structures and widths: y = einsum_linear(x, A, B)
// with A = gain_A cap(core_a), cap(M) = M / max(1, rms(M) / init_std) and B
// likewise. Dense is one plain muP matrix, y = W x, without cap and gain.
// Source: arXiv 2410.02117, section 5.
class EinsumLinear : public TokenLayer {
 public:
  EinsumLinear(
      const structure::Structure& structure,
      const EinsumLinearOptions& options,
      const at::Generator& generator);

  // @param x (..., d_in)
  // @return (..., d_out)
  torch::Tensor forward(
      const torch::Tensor& x,
      const std::optional<ops::MoeRouting>& routing = std::nullopt) override;

  ops::Unbiased forward_unbiased(
      const torch::Tensor& x,
      const std::optional<ops::MoeRouting>& routing = std::nullopt) override;

  // What forward() applies to x, capped and scaled; not of a dense layer.
  ops::FfnLayer operands(const torch::Tensor& x);

  // The dense matrix that does the same: forward(x) = x merge()^T + bias.
  // @return (d_out, d_in)
  torch::Tensor merge();

  // For inference: while on, forward() without gradients keeps the capped cores
  // from call to call, and multiplies by the merged matrix where
  // ops::merged_is_faster() (EINFORGE_KERNEL=merged: always), which then takes
  // d_in d_out elements of memory. Both are made anew when a parameter changes
  // in place or moves.
  void set_inference(bool on);

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

  torch::Tensor apply(const torch::Tensor& x, const torch::Tensor& bias) const;

  // What parameters were made into, in one dtype.
  struct Prepared {
    torch::ScalarType dtype = torch::kFloat32;
    // Versions and addresses of the parameters.
    std::array<std::int64_t, 8> made_from{};
    torch::Tensor core_a;
    torch::Tensor core_b;
    torch::Tensor bias;
    torch::Tensor merged;  // once it is used
  };
  bool infers() const;
  torch::Tensor infer(const torch::Tensor& x);
  const Prepared& prepare(torch::ScalarType dtype);

  bool inference_ = false;
  Prepared prepared_;
  structure::Structure structure_;
  torch::Tensor weight_;
  torch::Tensor core_a_;
  torch::Tensor core_b_;
  torch::Tensor gain_a_;
  torch::Tensor gain_b_;
  torch::Tensor bias_;
  bool cap_;
  double max_rms_a_ = 0;
  double max_rms_b_ = 0;
};

// set_inference() of all EinsumLinear layers of a network.
void set_inference(torch::nn::Module& network, bool on);

}  // namespace einforge::nn
