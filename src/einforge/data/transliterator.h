#pragma once

#include <optional>
#include <string>
#include <unordered_map>

namespace einforge::data {

// Spells characters beyond ASCII in ASCII, by Unicode's own tables (ICU's
// Latin-ASCII and compatibility decompositions) and by the usual spelling of
// symbols that these lack.
class Transliterator {
 public:
  // Newlines and printable ASCII. Empty where the character is dropped: a
  // combining mark, or one that cannot be seen, as a soft hyphen. No value
  // where there is no usual spelling.
  const std::optional<std::string>& spell(char32_t character);

 private:
  std::unordered_map<char32_t, std::optional<std::string>> spelled_;
};

// Whether it is a fraction in one character, such as one half.
bool is_fraction(char32_t character);

}  // namespace einforge::data
