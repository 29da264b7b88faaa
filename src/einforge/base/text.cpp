#include "einforge/base/text.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <type_traits>

#include "einforge/base/error.h"

namespace einforge::base {
namespace {

std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t substituted = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substituted});
    }
  }
  return row[b.size()];
}

template <typename T>
bool from_text(std::string_view text, T& value) {
  const auto [end, error] =
      std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc{} && end == text.data() + text.size();
}

template <typename T>
T parse_whole(std::string_view what, std::string_view text) {
  T value{};
  bool ok = from_text(text, value);
  if (double number = 0; !ok && from_text(text, number)) {
    // Above 2^53 not every whole number is a double.
    ok = std::abs(number) <= 0x1p53 && number == std::trunc(number) &&
         (number >= 0 || std::is_signed_v<T>);
    value = ok ? static_cast<T>(number) : T{};
  }
  check(
      ok,
      "{}: expected a whole number{}; got '{}'",
      what,
      std::is_signed_v<T> ? "" : " of at least 0",
      text);
  return value;
}

// The length of the UTF-8 character that `text` begins with and its code
// point; 0 where there is none (RFC 3629: neither overlong nor a surrogate).
std::size_t decode(std::string_view text, char32_t& code) {
  const auto byte = [&](std::size_t i) {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U;
  };
  const unsigned first = byte(0);
  if (first < 0x80) {
    code = first;
    return text.empty() ? 0 : 1;
  }
  const std::size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  constexpr std::array<char32_t, 5> kLeast = {0, 0, 0x80, 0x800, 0x10000};
  code = first & (0x7fU >> length);
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0U) != 0x80) {
      return 0;
    }
    code = (code << 6U) | (byte(i) & 0x3fU);
  }
  const bool valid = first >= 0xc2 && first <= 0xf4 && code >= kLeast[length] &&
                     code <= 0x10ffff && (code < 0xd800 || code > 0xdfff);
  return valid ? length : 0;
}

// Controls, line separators, and what changes the direction of text (Unicode's
// categories Cc, Zl, Zp and the bidirectional ones of Cf).
bool is_unprintable(char32_t code) {
  return code < 0x20 || (code >= 0x7f && code < 0xa0) || code == 0x61c ||
         code == 0x200e || code == 0x200f ||
         (code >= 0x2028 && code <= 0x202e) ||
         (code >= 0x2066 && code <= 0x2069) || code == 0xfeff;
}

}  // namespace

std::string nearest(
    std::string_view word, std::span<const std::string> candidates) {
  std::string best;
  std::size_t best_distance = std::max<std::size_t>(2, word.size() / 3) + 1;
  for (const std::string& candidate : candidates) {
    const std::size_t distance = edit_distance(word, candidate);
    if (distance < best_distance && distance < candidate.size()) {
      best = candidate;
      best_distance = distance;
    }
  }
  return best;
}

std::string suggestion(
    std::string_view word, std::span<const std::string> candidates) {
  const std::string near = nearest(word, candidates);
  return near.empty() ? "" : fmt::format(" (did you mean '{}'?)", near);
}

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  std::size_t begin = 0;
  for (;;) {
    const std::size_t end = text.find(separator, begin);
    parts.emplace_back(text.substr(begin, end - begin));
    if (end == std::string_view::npos) {
      return parts;
    }
    begin = end + 1;
  }
}

std::string trim(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n";
  const std::size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) {
    return "";
  }
  return std::string(
      text.substr(begin, text.find_last_not_of(kSpace) - begin + 1));
}

bool is_utf8(std::string_view text) {
  char32_t code = 0;
  while (!text.empty()) {
    const std::size_t length = decode(text, code);
    if (length == 0) {
      return false;
    }
    text.remove_prefix(length);
  }
  return true;
}

std::string printable(std::string_view text, bool lines) {
  std::string result;
  result.reserve(text.size());
  while (!text.empty()) {
    char32_t code = 0;
    const std::size_t length = decode(text, code);
    const auto byte = static_cast<unsigned char>(text.front());
    if (length == 0) {
      result += fmt::format("\\x{:02x}", byte);
    } else if (
        !is_unprintable(code) || (lines && (code == '\n' || code == '\t'))) {
      result += text.substr(0, length);
    } else if (code == '\n' || code == '\t') {
      result += code == '\n' ? "\\n" : "\\t";
    } else if (length == 1) {
      result += fmt::format("\\x{:02x}", byte);
    } else {
      result += fmt::format("\\u{{{:x}}}", static_cast<std::uint32_t>(code));
    }
    text.remove_prefix(std::max<std::size_t>(1, length));
  }
  return result;
}

std::string shortened(std::string_view text, std::size_t characters) {
  constexpr std::string_view kDots = "...";
  if (text.size() <= characters) {
    return std::string(text);
  }
  std::size_t kept = 0;  // bytes of as many characters as fit before the dots
  std::size_t at = 0;
  for (std::size_t count = 1; at < text.size(); ++count) {
    if (count > characters) {
      return std::string(text.substr(0, kept)) += kDots;
    }
    char32_t code = 0;
    at += std::max<std::size_t>(1, decode(text.substr(at), code));
    kept = count + kDots.size() <= characters ? at : kept;
  }
  return std::string(text);
}

std::string shell_word(std::string_view word) {
  constexpr std::string_view kPlain =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
      "_@%+=:,./-";
  if (!word.empty() &&
      word.find_first_not_of(kPlain) == std::string_view::npos) {
    return std::string(word);
  }
  std::string result = "'";
  for (const char c : word) {
    if (c == '\'') {
      result += "'\\''";
    } else {
      result += c;
    }
  }
  return result + "'";
}

double parse_double(std::string_view what, std::string_view text) {
  double value = 0;
  check(from_text(text, value), "{}: expected a number; got '{}'", what, text);
  check(
      std::isfinite(value),
      "{}: expected a finite number; got '{}'",
      what,
      text);
  return value;
}

std::int64_t parse_integer(std::string_view what, std::string_view text) {
  return parse_whole<std::int64_t>(what, text);
}

std::uint64_t parse_unsigned(std::string_view what, std::string_view text) {
  return parse_whole<std::uint64_t>(what, text);
}

std::string human_count(double value) {
  constexpr std::array<const char*, 6> kUnits = {"", "k", "M", "G", "T", "P"};
  std::size_t unit = 0;
  double scaled = value;
  while (std::abs(scaled) >= 999.5 && unit + 1 < kUnits.size()) {
    scaled /= 1000;
    ++unit;
  }
  return fmt::format("{:.3g}{}", scaled, kUnits[unit]);
}

std::string human_duration(double seconds) {
  const auto whole =
      static_cast<std::int64_t>(std::llround(std::max(0.0, seconds)));
  if (whole >= 3600) {
    return fmt::format("{}h {:02}m", whole / 3600, whole % 3600 / 60);
  }
  if (whole >= 60) {
    return fmt::format("{}m {:02}s", whole / 60, whole % 60);
  }
  return fmt::format("{}s", whole);
}

}  // namespace einforge::base
