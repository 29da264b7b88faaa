#include "einforge/models/config.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "einforge/base/error.h"
#include "einforge/structure/structure.h"

namespace einforge::models {
namespace {

// Beyond any layer that one machine trains; products of two still fit int64.
constexpr std::int64_t kLargest = 1 << 20;

void check_range(
    const char* key, std::int64_t value, std::int64_t largest = kLargest) {
  base::check(
      value >= 1 && value <= largest,
      "model.{}: expected 1 to {}; got {}",
      key,
      largest,
      value);
}

}  // namespace

void ModelConfig::validate() const {
  base::check(
      kind == "gpt" || kind == "mlp" || kind == "residual_mlp",
      "model.kind: expected gpt, mlp or residual_mlp; got '{}'",
      kind);
  check_range("width", width);
  check_range("layers", layers, 1024);
  try {
    moe.router.validate();
  } catch (const base::InvalidInput& error) {
    throw base::InvalidInput(fmt::format("model.moe.{}", error.what()));
  }
  base::check(
      embedding_std >= 0 && std::isfinite(embedding_std),
      "model.embedding_std: expected at least 0; got {}",
      embedding_std);
  if (kind != "mlp") {
    check_range("ffn_multiple", ffn_multiple, 64);
  }
  if (kind == "gpt") {
    check_range("context", context);
    check_range("head_width", head_width);
    base::check(
        width % std::min(head_width, width) == 0,
        "model.width: expected a multiple of head_width {}; got {}",
        head_width,
        width);
  } else {
    // Silence would train something else than what was written.
    const bool has_ffn = kind == "residual_mlp";
    const std::string none;
    for (const auto& [key, value] :
         {std::pair{"q", structure.q},
          std::pair{"k", structure.k},
          std::pair{"v", structure.v},
          std::pair{"attention_out", structure.attention_out},
          std::pair{"ffn_in", has_ffn ? none : structure.ffn_in},
          std::pair{"ffn_out", has_ffn ? none : structure.ffn_out}}) {
      base::check(
          value.empty(),
          "model.structure.{}: a {} has only {} and head; got '{}'",
          key,
          kind,
          has_ffn ? "all, ffn_in, ffn_out" : "all",
          value);
    }
  }
}

}  // namespace einforge::models
