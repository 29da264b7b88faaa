#include "einforge/base/config.h"

#include <toml++/toml.h>

#include <algorithm>

#include "einforge/base/files.h"
#include "einforge/base/hash.h"

namespace einforge::base {
namespace {

Json toml_to_json(const toml::node& node) {
  if (const auto* table = node.as_table()) {
    Json json = Json::object();
    for (const auto& [key, value] : *table) {
      json[std::string(key.str())] = toml_to_json(value);
    }
    return json;
  }
  if (const auto* array = node.as_array()) {
    Json json = Json::array();
    for (const auto& value : *array) {
      json.push_back(toml_to_json(value));
    }
    return json;
  }
  if (const auto text = node.value_exact<std::string>()) {
    return *text;
  }
  if (const auto flag = node.value_exact<bool>()) {
    return *flag;
  }
  if (const auto integer = node.value_exact<std::int64_t>()) {
    return *integer;
  }
  if (const auto number = node.value_exact<double>()) {
    return *number;
  }
  throw InvalidInput("config: dates and times have no use here");
}

// No configuration is this deep, and what walks a JSON value recursively, as
// printing it does, must not overflow the stack. toml++ has its own limit.
constexpr int kDeepest = 64;

bool check_depth(int depth, Json::parse_event_t, Json&) {
  check(depth <= kDeepest, "config: nested more than {} levels deep", kDeepest);
  return true;
}

// The parser quotes its last token, however long it is.
std::string shortened(std::string message) {
  constexpr std::size_t kLongest = 200;
  if (message.size() > kLongest) {
    message.resize(kLongest);
    message += "...";
  }
  return message;
}

bool is_ascii(char c) {
  return static_cast<unsigned char>(c) < 0x80;
}

// Past the quoted text that starts at `at`, or at its end if it has none, or at
// a character that the parser must not see (below).
std::size_t skip_quoted(std::string_view text, std::size_t at) {
  const char quote = text[at];
  const std::string three(3, quote);
  const bool multiline = text.substr(at, 3) == three;
  const std::string_view end =
      multiline ? std::string_view(three) : text.substr(at, 1);
  at += end.size();
  while (at < text.size() && text.substr(at, end.size()) != end) {
    if (!multiline && text[at] == '\n') {
      return at;  // an error, and the parser's to tell
    }
    if (quote == '"' && text[at] == '\\') {
      ++at;
      const std::size_t next = text.find_first_not_of(" \t\r\n", at);
      if (next != at && next != std::string_view::npos &&
          !is_ascii(text[next])) {
        return next;
      }
    }
    ++at;
  }
  at = std::min(at + end.size(), text.size());
  // The quotes that close many lines may follow one or two that they hold.
  for (int held = 0; multiline && held < 2 && at < text.size(); ++held) {
    at += text[at] == quote;
  }
  return at;
}

// A quote inside a word, as in 6"a", starts nothing: the parser takes it for a
// part of a malformed number.
bool may_start_quoted(std::string_view text, std::size_t at) {
  constexpr std::string_view kBefore = " \t\r\n=,.[{";
  return at == 0 || kBefore.find(text[at - 1]) != std::string_view::npos;
}

// TOML allows characters beyond ASCII in quotes and comments only. Elsewhere
// toml++ up to 3.4 asks whether they are white space, which is undefined
// behaviour for most of them; also after a backslash at the end of a line.
void check_ascii_outside_quotes(std::string_view text) {
  constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";
  if (text.starts_with(kByteOrderMark)) {
    text.remove_prefix(kByteOrderMark.size());
  }
  std::size_t at = 0;
  while (at < text.size()) {
    const char c = text[at];
    if (c == '#') {
      at = std::min(text.find('\n', at), text.size());
    } else if ((c == '"' || c == '\'') && may_start_quoted(text, at)) {
      at = skip_quoted(text, at);
    } else if (is_ascii(c)) {
      ++at;
    } else {
      const std::string_view before = text.substr(0, at);
      throw InvalidInput(fmt::format(
          "line {}: characters beyond ASCII belong in quotes",
          1 + std::count(before.begin(), before.end(), '\n')));
    }
  }
}

}  // namespace

namespace internal {

std::string excerpt(const Json& json) {
  constexpr std::size_t kLongest = 40;
  // replace: user text may hold bytes that are not UTF-8.
  std::string text = json.dump(-1, ' ', true, Json::error_handler_t::replace);
  if (text.size() > kLongest) {
    text.resize(kLongest);
    text += "...";
  }
  return text;
}

void throw_unknown_key(
    const std::string& path, const std::vector<std::string>& known) {
  const std::size_t dot = path.rfind('.');
  const std::string key =
      dot == std::string::npos ? path : path.substr(dot + 1);
  const std::string near = nearest(key, known);
  throw InvalidInput(
      near.empty()
          ? fmt::format(
                "config: unknown key '{}'; known here: {}",
                path,
                fmt::join(known, ", "))
          : fmt::format(
                "config: unknown key '{}' (did you mean '{}'?)", path, near));
}

}  // namespace internal

Json parse_config(std::string_view text, const std::filesystem::path& name) {
  if (name.extension() == ".json") {
    try {
      return Json::parse(text, check_depth);
    } catch (const std::exception& error) {
      throw InvalidInput(fmt::format(
          "'{}': expected JSON; {}", name.string(), shortened(error.what())));
    }
  }
  try {
    check_ascii_outside_quotes(text);
    return toml_to_json(toml::parse(text, name.string()));
  } catch (const InvalidInput& error) {
    throw InvalidInput(
        fmt::format("'{}': expected TOML; {}", name.string(), error.what()));
  } catch (const toml::parse_error& error) {
    const auto& begin = error.source().begin;
    throw InvalidInput(fmt::format(
        "'{}': expected TOML; line {}, column {}: {}",
        name.string(),
        begin.line,
        begin.column,
        shortened(std::string(error.description()))));
  }
}

Json read_config_file(const std::filesystem::path& path) {
  return parse_config(read_file(path), path);
}

void apply_setting(Json& json, std::string_view setting) {
  const std::size_t equals = setting.find('=');
  check(
      equals != std::string_view::npos && equals > 0,
      "--set: expected key=value; got '{}'",
      setting);
  const std::string_view value = setting.substr(equals + 1);
  const std::vector<std::string> keys = split(setting.substr(0, equals), '.');
  check(
      keys.size() <= kDeepest,
      "--set: expected at most {} keys with dots between; got {}",
      kDeepest,
      keys.size());
  Json* place = &json;
  for (const std::string& key : keys) {
    check(
        place->is_object() || place->is_null(),
        "--set: '{}' goes through a value that is not a table",
        setting);
    place = &(*place)[key];
  }
  const Json parsed = Json::parse(value, check_depth, false);
  *place = parsed.is_discarded() ? Json(std::string(value)) : parsed;
}

std::string config_id(const Json& json) {
  return hash_hex(json.dump()).substr(0, 16);
}

}  // namespace einforge::base
