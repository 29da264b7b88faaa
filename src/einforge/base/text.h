#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace einforge::base {

// The candidate at the smallest edit distance from `word`, or "" when none is
// near enough to be a plausible misspelling (more than a third of it differs).
std::string nearest(
    std::string_view word, std::span<const std::string> candidates);

// " (did you mean 'x'?)", or "" when no candidate is near.
std::string suggestion(
    std::string_view word, std::span<const std::string> candidates);

std::vector<std::string> split(std::string_view text, char separator);

std::string trim(std::string_view text);

bool is_utf8(std::string_view text);

// What a terminal shows as it is: control characters (escape sequences among
// them), characters that reverse the direction of text, and bytes that are not
// UTF-8 become \x1b, \u{202e}, \xff. Lines and tabs stay where `lines` is true.
// All text of users and files that is printed goes through here.
std::string printable(std::string_view text, bool lines = false);

// At most `characters` of UTF-8, "..." for the rest.
std::string shortened(std::string_view text, std::size_t characters);

// The word as a shell reads it: in quotes where it needs them.
std::string shell_word(std::string_view word);

// The whole of `text` as a number; throws InvalidInput that names `what`.
double parse_double(std::string_view what, std::string_view text);
// 1e6 is a whole number too.
std::int64_t parse_integer(std::string_view what, std::string_view text);
std::uint64_t parse_unsigned(std::string_view what, std::string_view text);

// 1234567 -> "1.23M"; 3 significant digits and k, M, G, T, P.
std::string human_count(double value);

// Seconds -> "1h 02m", "3m 05s", "12s".
std::string human_duration(double seconds);

}  // namespace einforge::base
