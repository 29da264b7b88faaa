#include "cli/options.h"

#include "einforge/base/console.h"
#include "einforge/base/files.h"

namespace einforge::cli {

void JsonOption::add(CLI::App& command, const std::string& meaning) {
  command
      .add_flag(
          "--json{-}",
          where_,
          fmt::format("print {} as JSON, or also write it to FILE", meaning))
      ->type_name("[=FILE]");
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
