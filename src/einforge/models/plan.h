#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "einforge/models/config.h"
#include "einforge/structure/structure.h"

namespace einforge::models {

// One kind of linear layer of a model.
struct LinearPlan {
  std::string kind;  // "q", "ffn_in", "head"; "input" and "hidden" of the mlp
  structure::Structure structure;
  std::int64_t count = 1;  // layers of this kind
  bool bias = true;
  // Ends a residual branch or is the head.
  bool zero = false;
  bool cap = true;
  bool gain = true;
  std::int64_t base_width = 768;
  // Of a mixture: it has a router of its own, not another layer's.
  bool router = true;
  // Of a mixture: there is one more expert, which every token takes.
  bool shared_expert = false;

  // Trainable numbers of all `count` layers, gains, biases and routers
  // included.
  std::int64_t parameters() const;
  // Multiply-accumulates of one forward pass of all of them for one token, as
  // done: of a mixture's experts only the active ones, and its router's.
  std::int64_t macs() const;
};

// What a model is made of, known without building a tensor. The models build
// themselves from it, so that counts and networks agree.
struct ModelPlan {
  std::vector<LinearPlan> linears;
  std::int64_t embedding_parameters = 0;
  std::int64_t norm_parameters = 0;
  // Of causal attention itself, the mean per token over the context: queries
  // times keys and weights times values of the (context + 1) / 2 visible
  // places, (context + 1) width in all, for each block.
  std::int64_t attention_macs = 0;
  // The same of all context places, 2 context width: with those that the mask
  // leaves out, as the paper's code counts.
  std::int64_t square_attention_macs = 0;

  std::int64_t parameters() const;
  // Of one forward pass for one token (gpt) or sample.
  std::int64_t macs() const;
  // Forward + backward: 2 FLOPs per MAC, backward twice forward.
  double flops() const { return 6.0 * static_cast<double>(macs()); }
  // Throws std::out_of_range for a kind that it has not.
  const LinearPlan& linear(const std::string& kind) const;
  // The FFN is one mixture of dense networks; "ffn_in" and "ffn_out" are its
  // experts' two matrices, and the first has the router.
  bool ffn_moe() const;
};

// The family of structures that replaces a whole FFN.
inline constexpr const char* kFfnMoe = "ffn_moe";

// The model at which all muP multipliers are 1.
struct BaseModel {
  BaseModel(std::int64_t base_width = 768, std::int64_t base_ffn_multiple = 1)
      : width(base_width), ffn_multiple(base_ffn_multiple) {}

  std::int64_t width;
  // Its FFN width / width.
  std::int64_t ffn_multiple;
};

// `outputs` is the vocabulary (gpt) or the number of targets, `inputs` the
// features of a sample (unused by gpt).
// Throws base::InvalidInput that names the key of what makes no model.
ModelPlan plan(
    const ModelConfig& config,
    std::int64_t inputs,
    std::int64_t outputs,
    const BaseModel& base = {});

}  // namespace einforge::models
