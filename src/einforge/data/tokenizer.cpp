#include "einforge/data/tokenizer.h"

#include <array>
#include <cstddef>
#include <optional>

#include "einforge/base/error.h"
#include "einforge/base/text.h"
#include "einforge/data/transliterate.h"

namespace einforge::data {
namespace {

constexpr const char* kChars96 = "chars96";
constexpr const char* kBytes = "bytes";

constexpr unsigned char kFirstPrintable = 0x20;
constexpr unsigned char kLastPrintable = 0x7E;

bool is_printable(unsigned char byte) {
  return byte >= kFirstPrintable && byte <= kLastPrintable;
}

// Of a character in the alphabet.
std::uint16_t token_of(unsigned char symbol) {
  return symbol == '\n'
             ? std::uint16_t{0}
             : static_cast<std::uint16_t>(symbol - kFirstPrintable + 1);
}

char symbol_of(std::int64_t token) {
  return token == 0 ? '\n' : static_cast<char>(token + kFirstPrintable - 1);
}

// Length of the UTF-8 character that starts with `byte`; 0: none does.
std::size_t utf8_length(unsigned char byte) {
  if (byte >= 0xC2 && byte <= 0xDF) {
    return 2;
  }
  if (byte >= 0xE0 && byte <= 0xEF) {
    return 3;
  }
  return byte >= 0xF0 && byte <= 0xF4 ? 4 : 0;
}

// Whether `byte` may follow `partial`, the first bytes of a character. The
// second byte's range rules out overlong forms, surrogates and what lies
// beyond U+10FFFF. Source: The Unicode Standard, table 3-7.
bool may_follow(std::string_view partial, unsigned char byte) {
  unsigned char low = 0x80;
  unsigned char high = 0xBF;
  if (partial.size() == 1) {
    switch (static_cast<unsigned char>(partial[0])) {
      case 0xE0:
        low = 0xA0;
        break;
      case 0xED:
        high = 0x9F;
        break;
      case 0xF0:
        low = 0x90;
        break;
      case 0xF4:
        high = 0x8F;
        break;
      default:
        break;
    }
  }
  return byte >= low && byte <= high;
}

char32_t decode_utf8(std::string_view bytes) {
  constexpr std::array<unsigned char, 5> kLeadBits = {0, 0, 0x1F, 0x0F, 0x07};
  char32_t code_point =
      static_cast<unsigned char>(bytes[0]) & kLeadBits[bytes.size()];
  for (const char byte : bytes.substr(1)) {
    code_point = code_point << 6 | (static_cast<unsigned char>(byte) & 0x3FU);
  }
  return code_point;
}

}  // namespace

Tokenizer::Tokenizer(std::string_view name)
    : name_(name), ascii_(name == kChars96) {
  const std::array<std::string, 2> known = {kChars96, kBytes};
  base::check(
      ascii_ || name == kBytes,
      "tokens: expected chars96 or bytes; got '{}'{}",
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
  Encoder encoder(*this);
  std::vector<std::uint16_t> tokens;
  encoder.encode(text, tokens);
  encoder.finish(tokens);
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

void Encoder::encode(
    std::string_view bytes, std::vector<std::uint16_t>& tokens) {
  for (const char character : bytes) {
    const auto byte = static_cast<unsigned char>(character);
    if (!ascii_) {
      tokens.push_back(byte);
      continue;
    }
    if (!partial_.empty()) {
      if (may_follow(partial_, byte)) {
        partial_ += character;
        if (partial_.size() ==
            utf8_length(static_cast<unsigned char>(partial_[0]))) {
          encode_wide(decode_utf8(partial_), tokens);
          partial_.clear();
        }
        continue;
      }
      finish(tokens);  // cut short; `byte` starts something new
    }
    if (byte < 0x80) {
      encode_ascii(byte, tokens);
    } else if (utf8_length(byte) > 0) {
      partial_ = character;
    } else {
      ++replacements_.invalid_bytes;
      tokens.push_back(token_of('?'));
    }
  }
}

void Encoder::finish(std::vector<std::uint16_t>& tokens) {
  for (std::size_t i = 0; i < partial_.size(); ++i) {
    ++replacements_.invalid_bytes;
    tokens.push_back(token_of('?'));
  }
  partial_.clear();
}

void Encoder::encode_ascii(
    unsigned char byte, std::vector<std::uint16_t>& tokens) {
  if (is_printable(byte) || byte == '\n') {
    tokens.push_back(token_of(byte));
  } else if (byte == '\r') {
    ++replacements_.dropped[byte];
  } else if (byte == '\t' || byte == '\f') {
    ++replacements_.transliterated[byte];
    tokens.push_back(token_of(byte == '\t' ? ' ' : '\n'));
  } else {
    ++replacements_.unknown[byte];
    tokens.push_back(token_of('?'));
  }
}

void Encoder::encode_wide(
    char32_t code_point, std::vector<std::uint16_t>& tokens) {
  const std::optional<std::string_view> ascii = transliterate(code_point);
  if (!ascii) {
    ++replacements_.unknown[code_point];
    tokens.push_back(token_of('?'));
    return;
  }
  ++(ascii->empty() ? replacements_.dropped
                    : replacements_.transliterated)[code_point];
  for (const char symbol : *ascii) {
    tokens.push_back(token_of(static_cast<unsigned char>(symbol)));
  }
}

}  // namespace einforge::data
