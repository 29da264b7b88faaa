#pragma once

#include <optional>
#include <string_view>

namespace einforge::data {

// The usual ASCII spelling of a character beyond ASCII: Latin letters without
// their accents, typographic quotes, dashes, spaces, arrows and box drawings.
// An empty string means that it is dropped (a soft hyphen, a byte-order mark);
// nothing that there is no usual spelling.
std::optional<std::string_view> transliterate(char32_t code_point);

}  // namespace einforge::data
