#include "einforge/base/config.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <sstream>
#include <toml.hpp>

#include "einforge/base/files.h"
#include "einforge/base/hash.h"

namespace einforge::base {
namespace {

// Tables in the order of their keys, so that the first fault is always the
// same.
using Toml = toml::basic_value<toml::discard_comments, std::map, std::vector>;

Json toml_to_json(const Toml& node) {
  switch (node.type()) {
    case toml::value_t::table: {
      Json json = Json::object();
      for (const auto& [key, value] : node.as_table()) {
        add_member(json, key, toml_to_json(value));
      }
      return json;
    }
    case toml::value_t::array: {
      Json json = Json::array();
      for (const Toml& value : node.as_array()) {
        json.push_back(toml_to_json(value));
      }
      return json;
    }
    case toml::value_t::string:
      return node.as_string().str;
    case toml::value_t::boolean:
      return node.as_boolean();
    case toml::value_t::integer:
      return node.as_integer();
    case toml::value_t::floating:
      return node.as_floating();
    default:
      throw InvalidInput("dates and times have no use here");
  }
}

// Where the string or comment that begins at `at` ends in a TOML text.
std::size_t skip_token(std::string_view text, std::size_t at) {
  const char quote = text[at];
  const std::string three(3, quote);
  const bool comment = quote == '#';
  const bool multiline = !comment && text.substr(at, 3) == three;
  at += multiline ? 3 : 1;
  for (; at < text.size(); ++at) {
    if (!multiline && text[at] == '\n') {
      return at;
    }
    if (text[at] == '\\' && quote == '"') {
      ++at;
    } else if (multiline && text.substr(at, 3) == three) {
      return at + 3;
    } else if (!multiline && !comment && text[at] == quote) {
      return at + 1;
    }
  }
  return text.size();
}

// The parser recurses over brackets and over the tables that dots make.
void check_toml_depth(std::string_view text) {
  std::vector<int> outer;  // dots of the keys before the open brackets
  int dots = 0;            // of the key being read
  int depth = 0;
  for (std::size_t at = 0; at < text.size();) {
    const char c = text[at];
    if (c == '"' || c == '\'' || c == '#') {
      at = skip_token(text, at);
      continue;
    }
    if (c == '.') {
      ++dots;
      ++depth;
    } else if (c == '{' || c == '[') {
      outer.push_back(dots);
      dots = 0;
      ++depth;
    } else if ((c == '}' || c == ']') && !outer.empty()) {
      depth -= dots + 1;
      dots = outer.back();
      outer.pop_back();
    } else if (c == ',' || (c == '\n' && outer.empty())) {
      depth -= dots;
      dots = 0;
    }
    check(
        depth <= kDeepestJson,
        "config: nested more than {} levels deep",
        kDeepestJson);
    ++at;
  }
}

Json parse_toml(std::string_view text, const std::string& name) {
  constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";
  if (text.starts_with(kByteOrderMark)) {
    text.remove_prefix(kByteOrderMark.size());
  }
  check(is_utf8(text), "the text is not UTF-8");
  check_toml_depth(text);
  std::istringstream stream{std::string(text)};
  try {
    return toml_to_json(
        toml::parse<toml::discard_comments, std::map, std::vector>(
            stream, name));
  } catch (const toml::exception& error) {
    // "[error] toml::parse_value: what is wrong", then an excerpt.
    std::string_view what = error.what();
    what = what.substr(0, what.find('\n'));
    what.remove_prefix(what.find(": ") + 2);
    throw InvalidInput(fmt::format(
        "line {}, '{}': {}",
        error.location().line(),
        shortened(trim(error.location().line_str()), 60),
        shortened(what, 200)));
  }
}

}  // namespace

namespace internal {

std::string to_string(const Range& range) {
  const bool least = std::isfinite(range.least);
  const bool greatest = std::isfinite(range.greatest);
  if (least && greatest) {
    return fmt::format(" from {} to {}", range.least, range.greatest);
  }
  return least      ? fmt::format(" of at least {}", range.least)
         : greatest ? fmt::format(" of at most {}", range.greatest)
                    : "";
}

std::string excerpt(const Json& json) {
  constexpr std::size_t kLongest = 40;
  return shortened(
      json.dump(-1, ' ', true, Json::error_handler_t::replace), kLongest);
}

void throw_unknown_key(
    const std::string& path, const std::vector<std::string>& known) {
  const std::size_t dot = path.rfind('.');
  const std::string key =
      dot == std::string::npos ? path : path.substr(dot + 1);
  std::string near = nearest(key, known);
  if (!near.empty()) {
    near = path.substr(0, path.size() - key.size()) + near;
  }
  throw InvalidInput(
      near.empty()
          ? fmt::format(
                "config: unknown key '{}'; known here: {}",
                path,
                fmt::join(known, ", "))
          : fmt::format(
                "config: unknown key '{}' (did you mean '{}'?)", path, near));
}

Setting parse_setting(std::string_view setting) {
  const std::size_t equals = setting.find('=');
  check(
      equals != std::string_view::npos && equals > 0,
      "--set: expected key=value; got '{}'",
      setting);
  return {split(setting.substr(0, equals), '.'), setting.substr(equals + 1)};
}

Json setting_to_json(std::string_view value, bool text) {
  std::optional<Json> json = try_parse_json(value);
  const bool taken = json && (!text || json->is_string() || json->is_array());
  return taken ? *std::move(json) : Json(std::string(value));
}

bool set_first(Json& json, std::string_view setting) {
  const Setting parsed = parse_setting(setting);
  if (parsed.keys.back() != "preset" && parsed.keys.back() != "kind") {
    return false;
  }
  Json* place = &json;
  for (const std::string& key : parsed.keys) {
    if (!place->is_null() && !place->is_object()) {
      return false;  // which update_from_json refuses
    }
    place = &(*place)[key];
  }
  *place = setting_to_json(parsed.value, /*text=*/true);
  return true;
}

}  // namespace internal

Json parse_config(std::string_view text, const std::filesystem::path& name) {
  if (name.extension() == ".json") {
    return parse_json(text, fmt::format("'{}'", name.string()));
  }
  try {
    return parse_toml(text, name.string());
  } catch (const InvalidInput& error) {
    throw InvalidInput(
        fmt::format("'{}': expected TOML; {}", name.string(), error.what()));
  }
}

Json read_config_file(const std::filesystem::path& path) {
  return parse_config(read_input(path), path);
}

std::string config_id(const Json& json) {
  return hash_hex(dump_json(json)).substr(0, 16);
}

}  // namespace einforge::base
