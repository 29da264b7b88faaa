#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace einforge::base {

// Insertion-ordered, so that a written record reads in the order of its struct.
// Members are looked up one after another: what adds or looks up thousands of
// them uses add_member() and a map of its own.
using Json = nlohmann::ordered_json;

// What a text may hold. Printing, copying and destroying a value recurse, so
// depth is bounded where values are made.
constexpr int kDeepestJson = 64;
constexpr std::size_t kLongestJson = 256'000'000;  // bytes

// The only readers of JSON: they bound depth and size, refuse an object that
// has a key twice, and take time linear in the text.
// Throws InvalidInput "WHAT: expected JSON; ...".
Json parse_json(std::string_view text, std::string_view what);
// No value where the text is no JSON.
std::optional<Json> try_parse_json(std::string_view text);

// Text of the value; bytes that are not UTF-8 are replaced. Never throws but
// for memory.
std::string dump_json(const Json& json, int indent = -1);

// Adds a member whose key the object does not have yet, in constant time.
void add_member(Json& object, std::string key, Json value);

}  // namespace einforge::base
