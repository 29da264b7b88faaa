#pragma once

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

// The whole of `text` as a number; throws InvalidInput that names `what`.
double parse_double(std::string_view what, std::string_view text);
long long parse_integer(std::string_view what, std::string_view text);

// 1234567 -> "1.23M"; 3 significant digits and k, M, G, T, P.
std::string human_count(double value);

// Seconds -> "1h 02m", "3m 05s", "12s".
std::string human_duration(double seconds);

}  // namespace einforge::base
