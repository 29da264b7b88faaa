#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "einforge/base/error.h"
#include "einforge/base/json.h"
#include "einforge/base/text.h"

// A configuration is a plain struct with defaults that lists its fields once:
//
//   struct OptimizerConfig {
//     double learning_rate = 3e-3;
//     template <typename Self, typename Visit>
//     static void fields(Self& self, Visit&& visit) {
//       visit("learning_rate", self.learning_rate, "base rate, at width 768");
//       visit("layers", self.layers, "blocks", base::Range{1, 1000});
//     }
//     bool operator==(const OptimizerConfig&) const = default;
//   };
//
// JSON and TOML reading, writing, `--set key=value`, the range of each number
// and the reference page in docs/ all come from that one list, so that none of
// them can drift.
namespace einforge::base {

// The numbers that a field takes, both ends included; in a list, each item. A
// field that is cast to a narrower type says so here.
struct Range {
  double least = -std::numeric_limits<double>::infinity();
  double greatest = std::numeric_limits<double>::infinity();
};

namespace internal {
struct AnyVisitor {
  template <typename T>
  void operator()(const char*, T&, const char*, const Range& = {}) const {}
};
}  // namespace internal

// A configuration may have a static prepare(config, json), called before its
// fields are read: to choose defaults by what `json` says, or to translate what
// an older version wrote.
template <typename T>
concept Prepares =
    requires(T& config, Json& json) { T::prepare(config, json); };

template <typename T>
concept Config =
    requires(T& config) { T::fields(config, internal::AnyVisitor{}); };

namespace internal {

template <typename T>
struct IsVector : std::false_type {};
template <typename T>
struct IsVector<std::vector<T>> : std::true_type {};

template <typename T>
std::string type_name() {
  if constexpr (std::same_as<T, bool>) {
    return "true or false";
  } else if constexpr (std::integral<T>) {
    return "a whole number";
  } else if constexpr (std::floating_point<T>) {
    return "a number";
  } else if constexpr (std::same_as<T, std::string>) {
    return "a string";
  } else if constexpr (IsVector<T>::value) {
    return "a list, each " + type_name<typename T::value_type>();
  } else {
    return "a table";
  }
}

// " from 1 to 16", " of at least 1", or "" where all are in it.
std::string to_string(const Range& range);

// The JSON, shortened for an error message.
std::string excerpt(const Json& json);

struct Setting {
  std::vector<std::string> keys;
  std::string_view value;
};
// Throws InvalidInput unless it is KEY.KEY=VALUE.
Setting parse_setting(std::string_view setting);
// Sets it in `json` if it is a `preset` or a `kind`, which prepare() may read.
bool set_first(Json& json, std::string_view setting);
// VALUE as JSON, for a field that holds text or not: `data.path=2024` is text.
Json setting_to_json(std::string_view value, bool text);

template <typename T>
Json value_to_json(const T& value);
template <typename T>
void value_from_json(
    const std::string& path, const Json& json, T& value, const Range& range);
template <typename T>
void set_value(
    const std::string& path,
    std::span<const std::string> keys,
    std::string_view text,
    T& value,
    const Range& range);
template <typename T>
void check_range(const std::string& path, const T& value, const Range& range);

template <typename T>
void read_fields(T& config, const Json& json, const std::string& path);

[[noreturn]] void throw_unknown_key(
    const std::string& path, const std::vector<std::string>& known);

inline std::string join(const std::string& path, std::string_view key) {
  return path.empty() ? std::string(key) : fmt::format("{}.{}", path, key);
}

}  // namespace internal

template <Config T>
Json to_json(const T& config) {
  Json json = Json::object();
  T::fields(
      config,
      [&](const char* key, const auto& value, const char*, const Range& = {}) {
        json[key] = internal::value_to_json(value);
      });
  return json;
}

// Overwrites the fields that `json` names and leaves the others as they are.
// Throws InvalidInput for an unknown key, with the nearest known one, and for
// a value of the wrong type. `path` prefixes the keys in messages.
template <Config T>
void update_from_json(
    T& config, const Json& json, const std::string& path = "") {
  check(
      json.is_object(),
      "{}: expected a table; got {}",
      path.empty() ? "config" : path,
      internal::excerpt(json));
  if constexpr (Prepares<T>) {
    Json prepared = json;
    T::prepare(config, prepared);
    internal::read_fields(config, prepared, path);
  } else {
    internal::read_fields(config, json, path);
  }
}

namespace internal {

template <typename T>
void read_fields(T& config, const Json& json, const std::string& path) {
  std::vector<std::string> known;
  T::fields(
      config,
      [&](const char* key, auto& value, const char*, const Range& range = {}) {
        known.emplace_back(key);
        if (const auto found = json.find(key); found != json.end()) {
          internal::value_from_json(
              internal::join(path, key), *found, value, range);
        }
      });
  for (const auto& item : json.items()) {
    if (std::find(known.begin(), known.end(), item.key()) == known.end()) {
      internal::throw_unknown_key(internal::join(path, item.key()), known);
    }
  }
}

}  // namespace internal

// to_json() without what is as in `defaults`: the same today and when there are
// more fields.
template <Config T>
Json differences(const T& config, const T& defaults = T{}) {
  const Json before = to_json(defaults);
  Json json = Json::object();
  T::fields(
      config,
      [&]<typename V>(
          const char* key, const V& value, const char*, const Range& = {}) {
        if constexpr (Config<V>) {
          V other{};
          update_from_json(other, before[key]);
          if (Json inner = differences(value, other); !inner.empty()) {
            json[key] = std::move(inner);
          }
        } else if (Json now = internal::value_to_json(value);
                   now != before[key]) {
          json[key] = std::move(now);
        }
      });
  return json;
}

// The text of a TOML or JSON (by the name's extension .json) file as JSON.
// Throws InvalidInput naming file and line of a syntax error.
Json parse_config(std::string_view text, const std::filesystem::path& name);
Json read_config_file(const std::filesystem::path& path);

// Applies `key.sub=value`: JSON or, where the field holds text, the text
// itself. Throws InvalidInput when there is no '=', and as update_from_json
// does.
template <Config T>
void apply_setting(T& config, std::string_view setting) {
  const internal::Setting parsed = internal::parse_setting(setting);
  internal::set_value("", parsed.keys, parsed.value, config, Range{});
}

// What a file says, then the settings.
template <Config T>
void update_from_json(
    T& config, Json json, std::span<const std::string> settings) {
  // What other keys' defaults depend on comes before what the file says.
  std::vector<std::string> others;
  for (const std::string& setting : settings) {
    if (!internal::set_first(json, setting)) {
      others.push_back(setting);
    }
  }
  update_from_json(config, json);
  for (const std::string& setting : others) {
    apply_setting(config, setting);
  }
}

// The configuration of a file ("-" is standard input), with settings applied.
template <Config T>
T read_config(
    const std::filesystem::path& path,
    std::span<const std::string> settings = {}) {
  T config;
  update_from_json(config, read_config_file(path), settings);
  return config;
}

// Throws InvalidInput where a number is out of its field's range, as
// update_from_json does: for configurations that were put together.
template <Config T>
void check_ranges(const T& config, const std::string& path = "") {
  internal::check_range(path, config, Range{});
}

// The id of a configuration: 16 hexadecimal digits of the hash of its JSON.
std::string config_id(const Json& json);

struct FieldReference {
  std::string key;
  std::string type;
  std::string default_value;
  std::string meaning;
};

// Every field of a configuration with its default, nested keys dotted.
template <Config T>
std::vector<FieldReference> reference(
    const T& config = T{}, const std::string& path = "") {
  std::vector<FieldReference> rows;
  T::fields(
      config,
      [&]<typename V>(
          const char* key,
          const V& value,
          const char* meaning,
          const Range& range = {}) {
        const std::string name = internal::join(path, key);
        if constexpr (Config<V>) {
          for (FieldReference& row : reference(value, name)) {
            rows.push_back(std::move(row));
          }
        } else {
          rows.push_back(
              {name,
               internal::type_name<std::remove_cvref_t<V>>() +
                   internal::to_string(range),
               internal::value_to_json(value).dump(),
               meaning});
        }
      });
  return rows;
}

namespace internal {

template <typename T>
Json value_to_json(const T& value) {
  if constexpr (Config<T>) {
    return to_json(value);
  } else if constexpr (IsVector<T>::value) {
    Json list = Json::array();
    for (const auto& item : value) {
      list.push_back(value_to_json(item));
    }
    return list;
  } else {
    return Json(value);
  }
}

template <typename T>
void check_range(const std::string& path, const T& value, const Range& range) {
  if constexpr (Config<T>) {
    T::fields(
        value,
        [&](const char* key,
            const auto& field,
            const char*,
            const Range& of_field = {}) {
          check_range(join(path, key), field, of_field);
        });
  } else if constexpr (IsVector<T>::value) {
    for (const auto& item : value) {
      check_range(path, item, range);
    }
  } else if constexpr (std::is_arithmetic_v<T> && !std::same_as<T, bool>) {
    const auto number = static_cast<double>(value);
    check(
        number >= range.least && number <= range.greatest,
        "{}: expected {}{}; got {}",
        path,
        type_name<T>(),
        to_string(range),
        value);
  }
}

template <typename T>
void value_from_json(
    const std::string& path, const Json& json, T& value, const Range& range) {
  if constexpr (Config<T>) {
    update_from_json(value, json, path);
  } else if constexpr (IsVector<T>::value) {
    // A single value stands for a list of one: `--set widths=64` just works.
    const Json list = json.is_array() ? json : Json::array({json});
    value.clear();
    for (const Json& item : list) {
      value_from_json(path, item, value.emplace_back(), range);
    }
  } else {
    bool ok = false;
    if constexpr (std::same_as<T, bool>) {
      ok = json.is_boolean();
    } else if constexpr (std::integral<T>) {
      if (json.is_number_unsigned()) {
        ok = std::in_range<T>(json.get<std::uint64_t>());
      } else if (json.is_number_integer()) {
        ok = std::in_range<T>(json.get<std::int64_t>());
      } else if (json.is_number()) {
        // 1e6 is a whole number to the person who wrote it; above 2^53 not
        // every one is a double.
        const double number = json.get<double>();
        ok = std::abs(number) < 0x1p53 && number == std::trunc(number) &&
             std::in_range<T>(static_cast<std::int64_t>(number));
      }
    } else if constexpr (std::floating_point<T>) {
      // TOML has inf and nan; no setting does, and JSON cannot hold them.
      ok = json.is_number() && std::isfinite(json.get<double>());
    } else {
      // What is not UTF-8 could not be written to JSON again.
      ok = json.is_string() && is_utf8(json.get_ref<const std::string&>());
    }
    check(
        ok,
        "{}: expected {}{}; got {}",
        path,
        type_name<T>(),
        to_string(range),
        excerpt(json));
    const T read = json.get<T>();
    check_range(path, read, range);
    value = read;
  }
}

template <typename T>
void set_value(
    const std::string& path,
    std::span<const std::string> keys,
    std::string_view text,
    T& value,
    const Range& range) {
  if constexpr (Config<T>) {
    if (keys.empty()) {
      update_from_json(value, setting_to_json(text, false), path);
      return;
    }
    std::vector<std::string> known;
    bool found = false;
    T::fields(
        value,
        [&](const char* key,
            auto& field,
            const char*,
            const Range& of_field = {}) {
          known.emplace_back(key);
          if (keys.front() == key) {
            found = true;
            set_value(join(path, key), keys.subspan(1), text, field, of_field);
          }
        });
    if (!found) {
      throw_unknown_key(join(path, keys.front()), known);
    }
  } else {
    check(
        keys.empty(),
        "--set: '{}' is not a table; got a key '{}' in it",
        path,
        keys.empty() ? "" : keys.front());
    const bool holds_text = std::same_as<T, std::string> ||
                            std::same_as<T, std::vector<std::string>>;
    value_from_json(path, setting_to_json(text, holds_text), value, range);
  }
}

}  // namespace internal
}  // namespace einforge::base
