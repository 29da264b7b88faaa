#include "einforge/base/config.h"

#include <toml++/toml.h>

#include <algorithm>
#include <charconv>
#include <cmath>

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

// toml++ limits how deep brackets nest but not how many dots a key has, and
// walks the tables that they make recursively.
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

// toml++ up to 3.4 asks of a character beyond ASCII whether it is white space,
// in many places, which is undefined behaviour for most of them. So it never
// sees one: each byte travels as ASCII letters that occur nowhere in the text
// and comes back afterwards.
class AsciiDisguise {
 public:
  // Throws InvalidInput where `text` is not UTF-8.
  explicit AsciiDisguise(std::string_view text) {
    constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";
    if (text.starts_with(kByteOrderMark)) {
      text.remove_prefix(kByteOrderMark.size());
    }
    check(is_utf8(text), "the text is not UTF-8");
    // z and q only where a mark begins, so that none overlaps another.
    for (int i = 0; i < 100 && mark_.empty(); ++i) {
      const std::string mark = fmt::format("zq{:02}", i);
      mark_ = text.find(mark) == std::string_view::npos ? mark : "";
    }
    check(!mark_.empty(), "the text holds all of zq00 to zq99");
    for (const char c : text) {
      if (is_ascii(c)) {
        ascii_ += c;
      } else {
        ascii_ += fmt::format("{}{:02X}", mark_, static_cast<unsigned char>(c));
      }
    }
  }

  const std::string& ascii() const { return ascii_; }

  std::string undo(std::string_view text) const {
    std::string result;
    for (;;) {
      const std::size_t at = text.find(mark_);
      result += text.substr(0, at);
      if (at == std::string_view::npos) {
        return result;
      }
      text.remove_prefix(at + mark_.size());
      // An error message may cut a byte short.
      unsigned byte = 0;
      const std::size_t digits = std::min<std::size_t>(2, text.size());
      std::from_chars(text.data(), text.data() + digits, byte, 16);
      result += static_cast<char>(byte);
      text.remove_prefix(digits);
    }
  }

 private:
  static bool is_ascii(char c) { return static_cast<unsigned char>(c) < 0x80; }

  std::string mark_;
  std::string ascii_;
};

Json parse_toml(std::string_view text, const std::string& name) {
  const AsciiDisguise disguise(text);
  check_toml_depth(disguise.ascii());
  try {
    const Json json = toml_to_json(toml::parse(disguise.ascii(), name));
    return disguise.ascii().size() == text.size()
               ? json
               : parse_json(disguise.undo(dump_json(json)), name);
  } catch (const toml::parse_error& error) {
    const auto& begin = error.source().begin;
    throw InvalidInput(fmt::format(
        "line {}, column {}: {}",
        begin.line,
        begin.column,
        shortened(disguise.undo(error.description()), 200)));
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
