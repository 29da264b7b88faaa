#pragma once

#include <span>
#include <vector>

#include "einforge/data/foreign_tokens.h"
#include "einforge/data/token_files.h"
#include "tests/fuzz/fuzz.h"

namespace einforge::fuzz {

// Reads all tokens of a file that a reader took for whole.
inline void read_all(
    const data::TokenLayout& layout, std::span<const std::byte> file) {
  require(
      layout.offset >= 0 && layout.tokens >= 0 &&
          static_cast<std::size_t>(
              layout.offset + layout.tokens * layout.width) == file.size(),
      "the tokens are the rest of the file");
  const data::TokenStream stream(
      {{.bytes = file.subspan(static_cast<std::size_t>(layout.offset))}},
      layout.width,
      1000);
  require(stream.size() == layout.tokens, "the stream has them all");
  std::vector<std::int64_t> tokens(static_cast<std::size_t>(stream.size()));
  stream.read(0, tokens);  // may throw for one that is too large
  for (const std::int64_t token : tokens) {
    require(token >= 0 && token < 1000, "tokens are of the vocabulary");
  }
}

}  // namespace einforge::fuzz
