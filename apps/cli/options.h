#pragma once

#include <CLI/CLI.hpp>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "cli/outputs.h"
#include "einforge/base/config.h"
#include "einforge/base/json.h"
#include "einforge/base/text.h"

// What the subcommands have in common in their options.
namespace einforge::cli {

namespace internal {

template <typename T>
struct Unwrapped {
  using type = T;
};
template <typename T>
struct Unwrapped<std::optional<T>> {
  using type = T;
};
template <typename T>
struct Unwrapped<std::vector<T>> {
  using type = T;
};

// The range, and that of the type where there is none.
template <typename T>
std::string range_text(const base::Range& range) {
  if constexpr (std::integral<T>) {
    if (!std::isfinite(range.least) && !std::isfinite(range.greatest)) {
      return fmt::format(
          " from {} to {}",
          std::numeric_limits<T>::min(),
          std::numeric_limits<T>::max());
    }
  }
  return base::internal::to_string(range);
}

// Throws base::InvalidInput.
template <typename T>
T parse_number(
    const std::string& name,
    const std::string& text,
    const base::Range& range) {
  T value{};
  bool known = true;
  try {
    if constexpr (std::floating_point<T>) {
      value = static_cast<T>(base::parse_double(name, text));
    } else if constexpr (std::is_signed_v<T>) {
      const std::int64_t whole = base::parse_integer(name, text);
      known = std::in_range<T>(whole);
      value = known ? static_cast<T>(whole) : T{};
    } else {
      value = base::parse_unsigned(name, text);
    }
  } catch (const base::InvalidInput&) {
    known = false;
  }
  const auto number = static_cast<double>(value);
  base::check(
      known && number >= range.least && number <= range.greatest,
      "{}: expected {}{}; got {}",
      name,
      base::internal::type_name<T>(),
      range_text<T>(range),
      known ? text : "'" + text + "'");
  return value;
}

}  // namespace internal

// An option that takes a number (1e6 too) in `range`; with a vector, numbers
// with commas between. The help shows what the value is now as the default.
template <typename T>
CLI::Option* add_number(
    CLI::App& command,
    const std::string& name,
    T& value,
    const std::string& meaning,
    const base::Range& range = {}) {
  using Number = typename internal::Unwrapped<T>::type;
  CLI::Option* option = command.add_option_function<std::vector<std::string>>(
      name,
      [&value, name, range](const std::vector<std::string>& texts) {
        if constexpr (std::same_as<T, std::vector<Number>>) {
          value.clear();
          for (const std::string& text : texts) {
            value.push_back(internal::parse_number<Number>(name, text, range));
          }
        } else {
          value = internal::parse_number<Number>(name, texts.back(), range);
        }
      },
      meaning);
  if constexpr (std::same_as<T, std::vector<Number>>) {
    option->delimiter(',');
  } else {
    option->expected(1)->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  }
  if constexpr (std::same_as<T, Number>) {
    option->default_str(fmt::format("{}", value));
  }
  return option->type_name("N");
}

// For Option::check(): refuses other words. `name` is the option's.
CLI::Validator one_of(
    const std::string& name, const std::vector<std::string>& words);

// The same for anything but a whole number in `range`.
CLI::Validator whole_number(const std::string& name, const base::Range& range);

// Lets every option and argument of `app` and its commands refuse an empty
// text where that is none: not where any text will do.
void refuse_empty(CLI::App& app);

// base::read_config() that says so where the file is a configuration of the
// command `other`, Other, rather than of `command`.
template <base::Config T, base::Config Other>
T read_config(
    const std::string& path,
    const std::vector<std::string>& settings,
    const char* command,
    const char* other) {
  try {
    return base::read_config<T>(path, settings);
  } catch (const base::InvalidInput&) {
    bool is_other = path != "-";  // which can be read only once
    try {
      if (is_other) {
        base::read_config<Other>(path);
      }
    } catch (const base::InvalidInput&) {
      is_other = false;
    }
    base::check(
        !is_other,
        "'{}': expected a configuration of `einforge {}`; got one of `einforge "
        "{}`",
        path,
        command,
        other);
    throw;
  }
}

// `--json` prints the result as JSON; `--json=FILE` writes it there, beside
// what the command prints. Between the two words may be a space where FILE ends
// in .json (see joined_arguments).
class JsonOption {
 public:
  void add(CLI::App& command, const std::string& meaning = "the result");

  // Whether JSON takes the place of what the command prints.
  bool instead() const { return where_ == "-"; }
  // Whether anything is wanted as JSON.
  bool given() const { return !where_.empty(); }
  // For check_outputs().
  Output output() const { return {"--json", where_}; }
  // Prints or writes the JSON, if asked for.
  void write(const base::Json& json, int indent = 2) const;
  void write_text(const std::string& json) const;

 private:
  std::string where_;
};

// Structures with commas between. A comma separates a structure's own numbers
// and settings too: what follows one starts a new structure if it is a name,
// alone or before a colon.
std::vector<std::string> split_structures(
    const std::vector<std::string>& texts);

// The words of the command line with "--json FILE.json" as "--json=FILE.json".
// Throws base::InvalidInput where one is not UTF-8.
std::vector<std::string> joined_arguments(int argc, char** argv);

// Writes a file, or to standard output where it is "-".
void write_output(const std::string& path, const std::string& text);

}  // namespace einforge::cli
