#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "einforge/data/transliterator.h"
#include "einforge/data/utf8_stream.h"

namespace einforge::data {

// What AsciiText changed, by character (in normalisation form C).
struct Replacements {
  // Character -> how often. Bounded: there are 1.1M characters.
  std::map<char32_t, std::int64_t> dropped;
  std::map<char32_t, std::int64_t> transliterated;
  std::map<char32_t, std::int64_t> unknown;  // became '?'
  std::int64_t invalid_bytes = 0;            // not UTF-8; each became '?'
};

// Turns UTF-8 into newlines and printable ASCII, which stay as they are.
//
// A line end of any kind (LF, CR, CRLF, form feed, U+0085, U+2028, U+2029)
// becomes a newline and a tab a space. Other characters are spelled in ASCII
// (transliterator.h); those without a spelling and bytes that are not UTF-8
// become '?'. Texts that Unicode calls canonically equivalent, such as a
// composed and a decomposed form, become the same.
class AsciiText : public Utf8Stream {
 public:
  void finish(std::string& text) override;

  const Replacements& replacements() const { return replacements_; }

 protected:
  void on_ascii(std::string_view run, std::string& text) override;
  void on_wide(std::string_view run, std::string& text) override;
  void on_invalid(char byte, std::string& text) override;

 private:
  void skip_newline_after_return(std::string_view& run);
  void end_return(bool newline_follows);
  void add_character(char32_t character, std::string& text);

  Transliterator transliterator_;
  Replacements replacements_;
  bool after_return_ = false;
  bool after_digit_ = false;
};

}  // namespace einforge::data
