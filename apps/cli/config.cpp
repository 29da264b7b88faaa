#include <fmt/format.h>

#include <memory>
#include <string>
#include <vector>

#include "cli/command.h"
#include "cli/options.h"
#include "einforge/base/config.h"
#include "einforge/base/console.h"
#include "einforge/base/json.h"
#include "einforge/search/config.h"
#include "einforge/train/config.h"

namespace einforge::cli {
namespace {

struct Options {
  std::string kind;
  bool markdown = false;
  JsonOption json;
};

constexpr const char* kExamples = R"(
Examples:
  einforge config train               a TOML file with all defaults
  einforge config search --json       the same as JSON
  einforge config --markdown          docs/configuration.md)";

struct Page {
  std::string kind;
  std::string command;
  std::vector<base::FieldReference> rows;
  base::Json defaults;
};

std::vector<Page> pages(const std::string& kind) {
  std::vector<Page> pages;
  if (kind.empty() || kind == "train") {
    pages.push_back(
        {"train",
         "einforge train CONFIG",
         base::reference<train::TrainConfig>(),
         base::to_json(train::TrainConfig{})});
  }
  if (kind.empty() || kind == "search") {
    pages.push_back(
        {"search",
         "einforge search CONFIG",
         base::reference<search::SearchConfig>(),
         base::to_json(search::SearchConfig{})});
  }
  base::check(
      !pages.empty(), "config: expected train or search; got '{}'", kind);
  return pages;
}

void print_markdown(const std::vector<Page>& pages) {
  base::print(
      "# Configuration reference\n\n"
      "<!-- Made by `einforge config --markdown`; a test compares. -->\n\n"
      "A configuration is a TOML file, or JSON if its name ends in `.json`. "
      "Dots\nare tables: `model.width` is `width` under `[model]`. "
      "`--set key=value` on the\ncommand line overrides the file. Unknown "
      "keys are errors.\n");
  for (const Page& page : pages) {
    base::print(
        "\n## `{}`\n\n| key | value | default | meaning |\n|---|---|---|---|\n",
        page.command);
    for (const base::FieldReference& row : page.rows) {
      base::print(
          "| `{}` | {} | `{}` | {} |\n",
          row.key,
          row.type,
          row.default_value,
          row.meaning);
    }
  }
}

// Tables after plain keys, as TOML wants it.
void print_toml(const base::Json& json, const std::string& path) {
  for (const auto& item : json.items()) {
    if (!item.value().is_object()) {
      base::print("{} = {}\n", item.key(), base::dump_json(item.value()));
    }
  }
  for (const auto& item : json.items()) {
    if (item.value().is_object()) {
      const std::string name =
          path.empty() ? item.key() : path + "." + item.key();
      base::print("\n[{}]\n", name);
      print_toml(item.value(), name);
    }
  }
}

void run(const Options& options) {
  const std::vector<Page> chosen = pages(options.kind);
  check_outputs({options.json.output()});
  if (options.markdown) {
    print_markdown(chosen);
    return;
  }
  base::check(
      chosen.size() == 1, "config: expected train or search; got neither");
  options.json.write(chosen.front().defaults);
  if (!options.json.instead()) {
    print_toml(chosen.front().defaults, "");
  }
}

}  // namespace

void add_config(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "config", "Print a configuration with its defaults, or the reference");
  command->add_option("kind", options->kind, "train or search");
  command->add_flag(
      "--markdown", options->markdown, "the reference page of all keys");
  options->json.add(*command, "the defaults");
  command->footer(kExamples);
  command->callback([options] { run(*options); });
}

}  // namespace einforge::cli
