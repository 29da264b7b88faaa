#pragma once

#include <cstddef>
#include <cstdint>

#include "einforge/nn/layer.h"
#include "einforge/ops/residual_norm.h"

namespace einforge::nn {

// y = gain (x - mean(x)) / sqrt(var(x) + 1e-5) + bias over the last dimension.
// Source: arXiv 1607.06450.
class LayerNorm : public Layer {
 public:
  explicit LayerNorm(std::int64_t width, bool bias = true);

  // @param x (..., width)
  // @return the shape of x
  torch::Tensor forward(const torch::Tensor& x);

  // ops::residual_norm().
  ops::ResidualNorm add(
      const torch::Tensor& x,
      const ops::Unbiased& branch,
      double scale,
      std::size_t readers = 1) const;

  // ops::residual_norm_adds_bias().
  bool adds_bias(const torch::Tensor& x) const;

  static constexpr double kEpsilon = 1e-5;
  const torch::Tensor& gain() const { return gain_; }

 private:
  torch::Tensor gain_;  // (width)
  torch::Tensor bias_;  // (width) or undefined
};

}  // namespace einforge::nn
