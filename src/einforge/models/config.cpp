#include "einforge/models/config.h"

#include <algorithm>
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
      kind == "gpt" || kind == "mlp",
      "model.kind: expected gpt or mlp; got '{}'",
      kind);
  check_range("width", width);
  check_range("layers", layers, 1024);
  try {
    moe.router.validate();
  } catch (const base::InvalidInput& error) {
    throw base::InvalidInput(fmt::format("model.moe.{}", error.what()));
  }
  if (kind == "gpt") {
    check_range("context", context);
    check_range("head_width", head_width);
    check_range("ffn_multiple", ffn_multiple, 64);
    base::check(
        width % std::min(head_width, width) == 0,
        "model.width: expected a multiple of head_width {}; got {}",
        head_width,
        width);
  } else {
    // Silence would train something else than what was written.
    for (const auto& [key, value] :
         {std::pair{"q", structure.q},
          std::pair{"k", structure.k},
          std::pair{"v", structure.v},
          std::pair{"attention_out", structure.attention_out},
          std::pair{"ffn_in", structure.ffn_in},
          std::pair{"ffn_out", structure.ffn_out}}) {
      base::check(
          value.empty(),
          "model.structure.{}: an mlp has only all and head; got '{}'",
          key,
          value);
    }
  }
}

}  // namespace einforge::models
