#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace einforge::data {

// How text becomes tokens. Two kinds, both one symbol a character:
//
//   chars96  newline is 0 and printable ASCII 1 to 95, in code-point order:
//            the alphabet of arXiv 2410.02117's GPT-2 runs
//   bytes    token = byte, 256 of them; loses nothing
//
// chars96 reads UTF-8. A tab becomes a space, a form feed a newline; carriage
// returns, byte-order marks and soft hyphens are dropped; accented Latin
// letters, typographic quotes, dashes and the like become their usual ASCII
// spelling (transliterate.h); everything else becomes '?'. Nothing of this is
// silent: Encoder counts it.
class Tokenizer {
 public:
  // Throws base::InvalidInput for a name that is neither.
  explicit Tokenizer(std::string_view name);

  const std::string& name() const { return name_; }
  std::int64_t vocab_size() const { return ascii_ ? 96 : 256; }
  // symbols()[i] is the character of token i; empty for `bytes`.
  std::string symbols() const;

  std::vector<std::int64_t> encode(std::string_view text) const;
  // Throws base::InvalidInput for a token outside [0, vocab_size).
  std::string decode(std::span<const std::int64_t> tokens) const;

 private:
  friend class Encoder;

  std::string name_;
  bool ascii_;
};

// What an Encoder changed, by input character.
struct Replacements {
  // Code point -> how often. Bounded: there are 1.1M code points.
  std::map<char32_t, std::int64_t> dropped;
  std::map<char32_t, std::int64_t> transliterated;
  std::map<char32_t, std::int64_t> unknown;  // became '?'
  std::int64_t invalid_bytes = 0;            // not UTF-8; each became '?'
};

// Encodes a stream that comes in pieces; a character may straddle two.
class Encoder {
 public:
  explicit Encoder(const Tokenizer& tokenizer) : ascii_(tokenizer.ascii_) {}

  // Appends the tokens of `bytes` to `tokens`.
  void encode(std::string_view bytes, std::vector<std::uint16_t>& tokens);
  // The stream has ended: a character cut short counts as invalid.
  void finish(std::vector<std::uint16_t>& tokens);

  const Replacements& replacements() const { return replacements_; }

 private:
  void encode_ascii(unsigned char byte, std::vector<std::uint16_t>& tokens);
  void encode_wide(char32_t code_point, std::vector<std::uint16_t>& tokens);

  bool ascii_;
  std::string partial_;  // the first bytes of a UTF-8 character
  Replacements replacements_;
};

}  // namespace einforge::data
