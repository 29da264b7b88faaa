#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "einforge/data/metadata.h"

namespace einforge::data {

// Text to tokens and back, for the prompts and samples of a model.
class Codec {
 public:
  virtual ~Codec() = default;
  // Throws base::InvalidInput for what is no text of it.
  virtual std::vector<std::int64_t> encode(std::string_view text) = 0;
  // Throws base::InvalidInput for a token outside the vocabulary.
  virtual std::string decode(std::span<const std::int64_t> tokens) = 0;
  // Whether the text of tokens is those of each token, one after another.
  virtual bool is_by_token() const { return true; }
};

// The content of the tokenizer's file of which `folder` has a copy. Throws
// base::InvalidInput when it is missing or another one.
std::string read_tokenizer(
    const TokenizerInfo& tokenizer, const std::filesystem::path& folder);

// That of `tokens` as meta.json has it: an alphabet (tokenizer.h), the
// tokenizer of which `folder` has a copy, or numbers with spaces between
// (`ids`). Throws base::InvalidInput when the copy is missing or not that file,
// or when its library is not installed.
std::unique_ptr<Codec> open_codec(
    const std::string& tokens,
    const TokenizerInfo& tokenizer,
    const std::filesystem::path& folder);

}  // namespace einforge::data
