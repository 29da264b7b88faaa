#include "cli/options.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>

#include "einforge/base/console.h"
#include "einforge/base/files.h"

namespace einforge::cli {

void JsonOption::add(CLI::App& command, const std::string& meaning) {
  command
      .add_flag(
          "--json{-}",
          where_,
          fmt::format("print {} as JSON, or also write it to FILE", meaning))
      ->type_name("[=FILE]")
      ->multi_option_policy(CLI::MultiOptionPolicy::Throw);
}

void JsonOption::write(const base::Json& json, int indent) const {
  if (given()) {
    write_text(base::dump_json(json, indent));
  }
}

void JsonOption::write_text(const std::string& json) const {
  if (given()) {
    write_output(where_, json + "\n");
  }
}

CLI::Validator one_of(
    const std::string& name, const std::vector<std::string>& words) {
  return {
      [name, words](std::string& text) -> std::string {
        base::check(
            std::ranges::find(words, text) != words.end(),
            "{}: expected {}; got '{}'{}",
            name,
            fmt::join(words, " or "),
            text,
            base::suggestion(text, words));
        return "";
      },
      ""};
}

CLI::Validator whole_number(const std::string& name, const base::Range& range) {
  return {
      [name, range](std::string& text) -> std::string {
        internal::parse_number<std::int64_t>(name, text, range);
        return "";
      },
      ""};
}

void refuse_empty(CLI::App& app) {
  for (CLI::Option* option : app.get_options()) {
    const std::string type = option->get_type_name();
    const bool takes_value =
        option->get_expected_max() > 0 || type.starts_with("[=");
    const bool any_text = option->nonpositional() &&
                          (type == "TEXT" || type == "PATTERN" || type == "N");
    if (!takes_value || any_text) {
      continue;
    }
    const std::string name = option->get_name();
    option->check(CLI::Validator(
        [name](std::string& text) -> std::string {
          base::check(!text.empty(), "{}: expected a value; got ''", name);
          return "";
        },
        ""));
  }
  for (CLI::App* command : app.get_subcommands({})) {
    refuse_empty(*command);
  }
}

std::vector<std::string> split_structures(
    const std::vector<std::string>& texts) {
  std::vector<std::string> structures;
  for (const std::string& text : texts) {
    bool first = true;
    for (const std::string& part : base::split(text, ',')) {
      const bool named = !part.empty() && part != "pad" &&
                         std::isalpha(static_cast<unsigned char>(part[0])) &&
                         part.find(':') <= part.find('=');
      if (first || named) {
        structures.push_back(part);
      } else {
        structures.back() += "," + part;
      }
      first = false;
    }
  }
  return structures;
}

std::vector<std::string> joined_arguments(int argc, char** argv) {
  std::vector<std::string> words;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    base::check(
        base::is_utf8(word), "argument '{}': expected UTF-8 text", word);
    // A config or store comes before the options.
    if (words.size() > 2 && words.back() == "--json" &&
        (word.ends_with(".json") || word == "-")) {
      words.back() += "=" + word;
    } else {
      words.push_back(word);
    }
  }
  return words;
}

void write_output(const std::string& path, const std::string& text) {
  if (path == "-") {
    base::print_raw(text);
  } else {
    base::write_file_atomically(path, text);
  }
}

}  // namespace einforge::cli
