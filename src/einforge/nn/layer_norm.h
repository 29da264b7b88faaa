#pragma once

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

  // Of x + scale branch, or of x where branch is undefined, and that itself;
  // what is normed comes in autocast's dtype.
  ops::ResidualNorm add(
      const torch::Tensor& x, const torch::Tensor& branch, double scale);

 private:
  torch::Tensor gain_;  // (width)
  torch::Tensor bias_;  // (width) or undefined
};

}  // namespace einforge::nn
