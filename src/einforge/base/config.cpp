#include "einforge/base/config.h"

#include <toml++/toml.h>

#include <algorithm>
#include <charconv>

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
// printing it does, must not overflow the stack.
constexpr int kDeepest = 64;

bool check_depth(int depth, Json::parse_event_t, Json&) {
  check(depth <= kDeepest, "config: nested more than {} levels deep", kDeepest);
  return true;
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
        depth <= kDeepest, "config: nested more than {} levels deep", kDeepest);
    ++at;
  }
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
    try {
      Json(text).dump();
    } catch (const nlohmann::json::exception&) {
      throw InvalidInput("the text is not UTF-8");
    }
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
               : Json::parse(disguise.undo(json.dump()));
  } catch (const toml::parse_error& error) {
    const auto& begin = error.source().begin;
    throw InvalidInput(fmt::format(
        "line {}, column {}: {}",
        begin.line,
        begin.column,
        shortened(disguise.undo(error.description()))));
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
    return parse_toml(text, name.string());
  } catch (const InvalidInput& error) {
    throw InvalidInput(
        fmt::format("'{}': expected TOML; {}", name.string(), error.what()));
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
