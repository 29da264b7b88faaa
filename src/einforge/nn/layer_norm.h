#pragma once

#include <cstdint>

#include "einforge/nn/layer.h"

namespace einforge::nn {

// y = gain (x - mean(x)) / sqrt(var(x) + 1e-5) + bias over the last dimension.
// Source: arXiv 1607.06450.
class LayerNorm : public Layer {
 public:
  explicit LayerNorm(std::int64_t width, bool bias = true);

  // @param x (..., width)
  // @return the shape of x
  torch::Tensor forward(const torch::Tensor& x);

 private:
  torch::Tensor gain_;  // (width)
  torch::Tensor bias_;  // (width) or undefined
};

}  // namespace einforge::nn
