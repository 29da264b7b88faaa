#include "einforge/data/tokenizer.h"

#include <algorithm>
#include <array>
#include <cstddef>

#include "einforge/base/error.h"
#include "einforge/base/text.h"
#include "einforge/data/ascii_text.h"

namespace einforge::data {
namespace {

constexpr const char* kChars96 = "chars96";
constexpr const char* kBytes = "bytes";

// Printable ASCII starts at 32, its tokens at 1.
constexpr int kOffset = ' ' - 1;

std::uint16_t token_of(char symbol) {
  return symbol == '\n' ? std::uint16_t{0}
                        : static_cast<std::uint16_t>(symbol - kOffset);
}

char symbol_of(std::int64_t token) {
  return token == 0 ? '\n' : static_cast<char>(token + kOffset);
}

}  // namespace

bool is_alphabet(std::string_view name) {
  return name == kChars96 || name == kBytes;
}

Tokenizer::Tokenizer(std::string_view name)
    : name_(name), ascii_(name == kChars96) {
  const std::array<std::string, 2> known = {kChars96, kBytes};
  base::check(
      is_alphabet(name),
      "tokens: expected chars96, bytes or a tokenizer's file (*.json, "
      "*.tiktoken, *.model); got '{}'{}",
      name,
      base::suggestion(name, known));
}

std::string Tokenizer::symbols() const {
  std::string symbols;
  if (ascii_) {
    for (std::int64_t token = 0; token < vocab_size(); ++token) {
      symbols += symbol_of(token);
    }
  }
  return symbols;
}

std::vector<std::int64_t> Tokenizer::encode(std::string_view text) const {
  std::string symbols(text);
  if (ascii_) {
    AsciiText ascii;
    symbols.clear();
    ascii.add(text, symbols);
    ascii.finish(symbols);
  }
  std::vector<std::uint16_t> tokens;
  encode_symbols(symbols, tokens);
  return {tokens.begin(), tokens.end()};
}

std::string Tokenizer::decode(std::span<const std::int64_t> tokens) const {
  std::string text;
  text.reserve(tokens.size());
  for (const std::int64_t token : tokens) {
    base::check(
        token >= 0 && token < vocab_size(),
        "[decode] expected tokens below {}; got {}",
        vocab_size(),
        token);
    text += ascii_ ? symbol_of(token) : static_cast<char>(token);
  }
  return text;
}

void Tokenizer::encode_symbols(
    std::string_view text, std::vector<std::uint16_t>& tokens) const {
  const std::size_t before = tokens.size();
  tokens.resize(before + text.size());
  const std::span<std::uint16_t> added = std::span(tokens).subspan(before);
  if (ascii_) {
    std::ranges::transform(text, added.begin(), token_of);
  } else {
    std::ranges::transform(text, added.begin(), [](char byte) {
      return static_cast<std::uint16_t>(static_cast<unsigned char>(byte));
    });
  }
}

}  // namespace einforge::data
