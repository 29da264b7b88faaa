#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "einforge/nn/layer_norm.h"
#include "einforge/nn/moe_router.h"
#include "einforge/nn/token_layer.h"

namespace einforge::nn {

// Causal multi-head self-attention with LayerNorm on queries and keys and the
// muP scale: out(softmax(8 / d_head LN(q) LN(k)^T) v), equal to the usual
// 1 / sqrt(d_head) at d_head = 64.
// Source: arXiv 2203.03466, section 4 (scale); arXiv 2302.05442 (qk-LayerNorm).
class Attention : public Layer {
 public:
  // The four layers map width to width, width a multiple of head_width.
  // `router`, where given, routes x for q, k and v, mixtures that have none.
  Attention(
      std::int64_t head_width,
      std::shared_ptr<TokenLayer> q,
      std::shared_ptr<TokenLayer> k,
      std::shared_ptr<TokenLayer> v,
      std::shared_ptr<TokenLayer> out,
      std::shared_ptr<MoeRouter> router = nullptr);

  // @param x (batch, time, width)
  // @return (batch, time, width)
  // FLOPs beside the four layers': 4 width (time + 1) / 2 per token.
  torch::Tensor forward(const torch::Tensor& x);

  // How many of its layers read x.
  std::size_t readers() const { return router_ == nullptr ? 3 : 4; }

  // The same of an x that comes once for each reader, so that their gradients
  // need not be added one to another; the last layer may leave its bias.
  ops::Unbiased forward(const std::vector<torch::Tensor>& x, bool unbiased);

 private:
  std::int64_t head_width_;
  std::shared_ptr<MoeRouter> router_;  // or null
  std::shared_ptr<TokenLayer> q_;
  std::shared_ptr<TokenLayer> k_;
  std::shared_ptr<TokenLayer> v_;
  std::shared_ptr<TokenLayer> out_;
  std::shared_ptr<LayerNorm> q_norm_;
  std::shared_ptr<LayerNorm> k_norm_;
};

}  // namespace einforge::nn
