#include "einforge/data/transliterate.h"

#include <algorithm>
#include <array>

namespace einforge::data {
namespace {

constexpr char32_t kFirstLatin = 0xA0;

// U+00A0 to U+017F, Latin-1 and Latin Extended-A: letters by Unicode's own
// decomposition without the combining marks, the rest by hand. nullptr: none.
constexpr auto kLatin = std::to_array<const char*>({
    // clang-format off
    " ", "!", "c", "GBP", nullptr, "JPY", "|", "S.",  // U+00A0
    "\"", "(C)", "a", "\"", "~", "", "(R)", "-",  // U+00A8
    " deg", "+/-", "2", "3", "'", "u", "P.", ".",  // U+00B0
    ",", "1", "o", "\"", "1/4", "1/2", "3/4", "?",  // U+00B8
    "A", "A", "A", "A", "A", "A", "AE", "C",  // U+00C0
    "E", "E", "E", "E", "I", "I", "I", "I",  // U+00C8
    "D", "N", "O", "O", "O", "O", "O", "x",  // U+00D0
    "O", "U", "U", "U", "U", "Y", "Th", "ss",  // U+00D8
    "a", "a", "a", "a", "a", "a", "ae", "c",  // U+00E0
    "e", "e", "e", "e", "i", "i", "i", "i",  // U+00E8
    "d", "n", "o", "o", "o", "o", "o", "/",  // U+00F0
    "o", "u", "u", "u", "u", "y", "th", "y",  // U+00F8
    "A", "a", "A", "a", "A", "a", "C", "c",  // U+0100
    "C", "c", "C", "c", "C", "c", "D", "d",  // U+0108
    "D", "d", "E", "e", "E", "e", "E", "e",  // U+0110
    "E", "e", "E", "e", "G", "g", "G", "g",  // U+0118
    "G", "g", "G", "g", "H", "h", "H", "h",  // U+0120
    "I", "i", "I", "i", "I", "i", "I", "i",  // U+0128
    "I", "i", "IJ", "ij", "J", "j", "K", "k",  // U+0130
    "q", "L", "l", "L", "l", "L", "l", "L",  // U+0138
    "l", "L", "l", "N", "n", "N", "n", "N",  // U+0140
    "n", "'n", "N", "n", "O", "o", "O", "o",  // U+0148
    "O", "o", "OE", "oe", "R", "r", "R", "r",  // U+0150
    "R", "r", "S", "s", "S", "s", "S", "s",  // U+0158
    "S", "s", "T", "t", "T", "t", "T", "t",  // U+0160
    "U", "u", "U", "u", "U", "u", "U", "u",  // U+0168
    "U", "u", "U", "u", "W", "w", "Y", "y",  // U+0170
    "Y", "Z", "z", "Z", "z", "Z", "z", "s",  // U+0178
    // clang-format on
});

struct Spelling {
  char32_t code_point;
  std::string_view ascii;
};

// In code-point order.
constexpr auto kOthers = std::to_array<Spelling>({
    // clang-format off
    {0x2000, " "}, {0x2001, " "}, {0x2002, " "}, {0x2003, " "},
    {0x2004, " "}, {0x2005, " "}, {0x2006, " "}, {0x2007, " "},
    {0x2008, " "}, {0x2009, " "}, {0x200A, " "}, {0x200B, ""},
    {0x200C, ""}, {0x200D, ""}, {0x2010, "-"}, {0x2011, "-"},
    {0x2012, "-"}, {0x2013, "-"}, {0x2014, "--"}, {0x2015, "--"},
    {0x2018, "'"}, {0x2019, "'"}, {0x201A, "'"}, {0x201B, "'"},
    {0x201C, "\""}, {0x201D, "\""}, {0x201E, "\""}, {0x201F, "\""},
    {0x2020, "+"}, {0x2022, "*"}, {0x2026, "..."}, {0x2028, "\n"},
    {0x2029, "\n"}, {0x202F, " "}, {0x2032, "'"}, {0x2033, "\""},
    {0x2039, "'"}, {0x203A, "'"}, {0x2044, "/"}, {0x2060, ""},
    {0x20AC, "EUR"}, {0x2122, "(TM)"}, {0x2190, "<-"}, {0x2192, "->"},
    {0x2194, "<->"}, {0x21D0, "<="}, {0x21D2, "=>"}, {0x21D4, "<=>"},
    {0x2212, "-"}, {0x2215, "/"}, {0x223C, "~"}, {0x2248, "~"},
    {0x2260, "!="}, {0x2264, "<="}, {0x2265, ">="}, {0x2329, "<"},
    {0x232A, ">"}, {0x27E8, "<"}, {0x27E9, ">"}, {0xFB00, "ff"},
    {0xFB01, "fi"}, {0xFB02, "fl"}, {0xFB03, "ffi"}, {0xFB04, "ffl"},
    {0xFEFF, ""},
    // clang-format on
});
static_assert(std::ranges::is_sorted(kOthers, {}, &Spelling::code_point));

// Box drawings: lines, else a corner or a crossing.
std::string_view box_drawing(char32_t code_point) {
  switch (code_point) {
    case 0x2500:
    case 0x2501:
    case 0x2550:
      return "-";
    case 0x2502:
    case 0x2503:
    case 0x2551:
      return "|";
    default:
      return "+";
  }
}

}  // namespace

std::optional<std::string_view> transliterate(char32_t code_point) {
  if (code_point >= kFirstLatin && code_point < kFirstLatin + kLatin.size()) {
    const char* ascii = kLatin[code_point - kFirstLatin];
    return ascii == nullptr ? std::nullopt
                            : std::optional<std::string_view>(ascii);
  }
  if (code_point >= 0x2500 && code_point <= 0x257F) {
    return box_drawing(code_point);
  }
  const auto* found =
      std::ranges::lower_bound(kOthers, code_point, {}, &Spelling::code_point);
  if (found != kOthers.end() && found->code_point == code_point) {
    return found->ascii;
  }
  return std::nullopt;
}

}  // namespace einforge::data
