#pragma once

#include <cstdint>
#include <string>

#include "einforge/base/config.h"
#include "einforge/nn/router_options.h"

namespace einforge::models {

// Which structure each kind of layer has. An empty string means `all`.
struct StructureConfig {
  std::string all = "dense";
  std::string q;
  std::string k;
  std::string v;
  std::string attention_out;
  std::string ffn_in;
  std::string ffn_out;
  // "All but the last linear layer": the head stays dense unless named.
  std::string head = "dense";

  template <typename Self, typename Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("all", self.all, "structure of every layer not named below");
    visit("q", self.q, "query projections; empty: all");
    visit("k", self.k, "key projections; empty: all");
    visit("v", self.v, "value projections; empty: all");
    visit("attention_out", self.attention_out, "attention output; empty: all");
    visit("ffn_in", self.ffn_in, "first FFN matrix; empty: all");
    visit("ffn_out", self.ffn_out, "second FFN matrix; empty: all");
    visit("head", self.head, "output head");
  }
  bool operator==(const StructureConfig&) const = default;
};

// How mixtures of experts are built; of no effect where a model has none.
struct MoeConfig {
  bool shared_qkv_router = false;
  bool shared_expert = false;
  nn::RouterOptions router;

  template <typename Self, typename Visit>
  static void fields(Self& self, Visit&& visit) {
    visit(
        "shared_qkv_router",
        self.shared_qkv_router,
        "q, k and v of a block use one router, not each its own");
    visit(
        "shared_expert",
        self.shared_expert,
        "every mixture has one more expert, which every token takes");
    visit("router", self.router, "the routers and their losses");
  }
  bool operator==(const MoeConfig&) const = default;
};

struct ModelConfig {
  std::string kind = "gpt";
  std::int64_t width = 256;
  std::int64_t layers = 3;
  std::int64_t context = 128;
  std::int64_t head_width = 64;
  std::int64_t ffn_multiple = 4;
  bool bias = true;
  double embedding_std = 1;
  bool rms_cap = true;
  StructureConfig structure;
  MoeConfig moe;

  template <typename Self, typename Visit>
  static void fields(Self& self, Visit&& visit) {
    visit(
        "kind",
        self.kind,
        "gpt, or for the regression task mlp or residual_mlp, the paper's");
    visit("width", self.width, "features of the residual stream or MLP");
    visit("layers", self.layers, "blocks, or hidden layers of an mlp");
    visit("context", self.context, "tokens per sequence (gpt)");
    visit("head_width", self.head_width, "features per attention head (gpt)");
    visit("ffn_multiple", self.ffn_multiple, "FFN width / width (not mlp)");
    visit("bias", self.bias, "linear layers and LayerNorms have biases");
    visit(
        "embedding_std",
        self.embedding_std,
        "standard deviation of initial embeddings (gpt)");
    visit(
        "rms_cap",
        self.rms_cap,
        "caps the RMS of each core at its initial one, with a learned gain");
    visit("structure", self.structure, "structure of each kind of layer");
    visit("moe", self.moe, "mixtures of experts (docs/moe.md)");
  }
  // Throws base::InvalidInput for a value that makes no model.
  void validate() const;
  bool operator==(const ModelConfig&) const = default;
};

}  // namespace einforge::models
