#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

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

// Throws base::InvalidInput.
template <typename T>
T parse_number(
    const std::string& name,
    const std::string& text,
    const base::Range& range) {
  T value{};
  if constexpr (std::floating_point<T>) {
    value = static_cast<T>(base::parse_double(name, text));
  } else {
    const auto whole = [&] {
      if constexpr (std::is_signed_v<T>) {
        return base::parse_integer(name, text);
      } else {
        return base::parse_unsigned(name, text);
      }
    }();
    base::check(
        std::in_range<T>(whole),
        "{}: expected a whole number{}; got {}",
        name,
        base::internal::to_string(range),
        text);
    value = static_cast<T>(whole);
  }
  base::internal::check_range(name, value, range);
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
  // Prints or writes the JSON, if asked for.
  void write(const base::Json& json, int indent = 2) const;
  void write_text(const std::string& json) const;

 private:
  std::string where_;
};

// The words of the command line with "--json FILE.json" as "--json=FILE.json".
// Throws base::InvalidInput where one is not UTF-8.
std::vector<std::string> joined_arguments(int argc, char** argv);

// Writes a file, or to standard output where it is "-".
void write_output(const std::string& path, const std::string& text);

}  // namespace einforge::cli
