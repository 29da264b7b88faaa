#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "einforge/models/model.h"

namespace einforge::models {

struct SampleOptions {
  std::int64_t tokens = 200;
  // Divides the logits; 0 always takes the likeliest token.
  double temperature = 0.8;
  // Only the k likeliest tokens are drawn from; 0: all.
  std::int64_t top_k = 0;
  std::uint64_t seed = 0;

  // Throws base::InvalidInput.
  void validate() const;
};

// Continues `prompt` (not empty) with tokens drawn from a gpt, which sees the
// last `context` tokens; each is passed to `on_token` as it comes. The same
// seed gives the same tokens.
// Costs a forward pass over the visible tokens for each new one.
std::vector<std::int64_t> sample(
    Model& model,
    std::int64_t context,
    const std::vector<std::int64_t>& prompt,
    const SampleOptions& options,
    const std::function<void(std::int64_t)>& on_token = {});

}  // namespace einforge::models
