#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace einforge::data {

// Whether it names one of the two alphabets below.
bool is_alphabet(std::string_view name);

// How text becomes tokens. Two kinds, both one symbol per character:
//
//   chars96  newline is 0 and printable ASCII 1 to 95, in code-point order:
//            the alphabet of arXiv 2410.02117's GPT-2 runs. UTF-8 is spelled
//            in it (ascii_text.h)
//   bytes    token = byte, 256 of them; loses nothing
class Tokenizer {
 public:
  // Throws base::InvalidInput for a name that is neither.
  explicit Tokenizer(std::string_view name);

  const std::string& name() const { return name_; }
  std::int64_t vocab_size() const { return ascii_ ? 96 : 256; }
  // Whether its symbols are those that AsciiText makes.
  bool is_ascii() const { return ascii_; }
  // symbols()[i] is the character of token i; empty for `bytes`.
  std::string symbols() const;

  std::vector<std::int64_t> encode(std::string_view text) const;
  // Throws base::InvalidInput for a token outside [0, vocab_size).
  std::string decode(std::span<const std::int64_t> tokens) const;

  // Appends the tokens of a text that holds symbols of the alphabet alone.
  void encode_symbols(
      std::string_view text, std::vector<std::uint16_t>& tokens) const;

 private:
  std::string name_;
  bool ascii_;
};

}  // namespace einforge::data
