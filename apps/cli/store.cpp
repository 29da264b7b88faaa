#include <filesystem>
#include <memory>
#include <string>
#include <system_error>

#include "cli/command.h"
#include "cli/make_report.h"
#include "cli/options.h"
#include "einforge/base/console.h"
#include "einforge/base/error.h"
#include "einforge/search/merge.h"
#include "einforge/store/location.h"
#include "einforge/store/store.h"

namespace einforge::cli {
namespace {

struct MergeFlags {
  std::string into;
  std::string from;
  JsonOption json;
};

void run_merge(const MergeFlags& flags) {
  const std::string into = store_file(flags.into).string();
  const std::string from = store_file(flags.from).string();
  std::error_code ignored;
  base::check(
      into != from && !std::filesystem::equivalent(into, from, ignored),
      "merge: expected two stores; got one twice");
  const store::Store source = store::Store::open_read_only(from);
  store::Store target = store::Store::open(into);
  const search::Merged merged = search::merge(target, source);
  flags.json.write_text(
      base::dump_json(
          {{"into", store::without_password(into)},
           {"from", store::without_password(from)},
           {"added", merged.added},
           {"replaced", merged.replaced},
           {"kept", merged.kept}},
          2) +
      "\n");
  if (!flags.json.instead()) {
    base::print(
        "{}: {} trials added, {} replaced by what got further, {} kept\n",
        store::without_password(into),
        merged.added,
        merged.replaced,
        merged.kept);
  }
}

}  // namespace

void add_store(CLI::App& app) {
  CLI::App* store = app.add_subcommand("store", "Work with stores of searches");
  store->require_subcommand(1);
  CLI::App* merge = store->add_subcommand(
      "merge", "Add the trials of one store to another one");
  auto flags = std::make_shared<MergeFlags>();
  merge
      ->add_option(
          "target",
          flags->into,
          "folder of a search, trials.db or postgresql://HOST/DATABASE#SEARCH; "
          "made where there is none")
      ->required();
  merge->add_option("source", flags->from, "the same; it stays as it is")
      ->required();
  flags->json.add(*merge);
  merge->footer(
      "Of a trial that both have, the record that got further stays.\n"
      "Example:\n"
      "  einforge store merge runs/all.db runs/demo");
  merge->callback([flags] { run_merge(*flags); });
}

}  // namespace einforge::cli
