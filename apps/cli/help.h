#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace einforge::cli {

// Help in the layout of this program, not of the library that parses.
class HelpFormatter : public CLI::Formatter {
 public:
  std::string make_help(
      const CLI::App* app,
      std::string name,
      CLI::AppFormatMode mode) const override;
};

// It has positional arguments: `einforge search CONFIG`, which has subcommands
// too.
bool takes_arguments(const CLI::App& app);

// The subcommand that the words lead to: {"data", "prepare"}; `app` for none.
// Throws base::InvalidInput with the nearest name where there is none.
const CLI::App& find_command(
    const CLI::App& app, const std::vector<std::string>& words);

// What was wrong with the words of the command line, in this program's words.
std::string message_of(const CLI::ParseError& error, const CLI::App& app);

}  // namespace einforge::cli
