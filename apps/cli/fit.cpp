#include <fmt/format.h>

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cli/command.h"
#include "cli/make_report.h"
#include "cli/options.h"
#include "einforge/base/console.h"
#include "einforge/base/error.h"
#include "einforge/base/progress.h"
#include "einforge/report/csv.h"
#include "einforge/report/json.h"
#include "einforge/report/ranking.h"
#include "einforge/report/summary.h"
#include "einforge/scaling/analysis.h"
#include "einforge/store/location.h"
#include "einforge/store/store.h"

namespace einforge::cli {
namespace {

struct FitFlags {
  std::string source;
  std::string metric = "flops";
  std::string csv;
  scaling::AnalysisOptions analysis;
  JsonOption json;
};

std::vector<scaling::Run> read_runs(const std::string& source) {
  const auto runs = store::is_database_uri(source) || is_database(source)
                        ? report::to_runs(report::read_trials(
                              store::Store::open_read_only(source)))
                        : scaling::read_csv(source);
  base::check(
      !runs.empty(), "'{}': expected trials with curves; got none", source);
  return scaling::best_learning_rates(runs);
}

void run_fit(const FitFlags& flags, bool baseline_given) {
  scaling::AnalysisOptions options = flags.analysis;
  options.metric = scaling::parse_metric(flags.metric);
  const std::string source = store_file(flags.source).string();
  check_outputs({{"--csv", flags.csv}, flags.json.output()}, {source});
  const auto runs = read_runs(source);
  if (baseline_given) {
    std::vector<std::string> names;
    for (const scaling::Run& run : runs) {
      names.push_back(run.structure);
    }
    check_baseline(names, options.baseline);
  }
  std::optional<base::Progress> bar;
  const auto started = std::chrono::steady_clock::now();
  options.progress = [&](int done, int total) {
    // Short fits say nothing.
    if (bar ||
        std::chrono::steady_clock::now() - started > std::chrono::seconds(2)) {
      if (!bar) {
        bar.emplace("bootstrap", total);
      }
      bar->update(done);
    }
  };
  const scaling::Analysis analysis = scaling::analyse(runs, options);
  bar.reset();
  base::check(
      !analysis.structures.empty(),
      "'{}': expected runs with {}; got none",
      flags.source,
      flags.metric);
  if (!flags.csv.empty()) {
    write_output(flags.csv, report::ranking_csv(analysis));
  }
  flags.json.write_text(report::dump(report::to_json(analysis)));
  if (!flags.json.instead()) {
    base::print("{}", report::fit_table(analysis));
  }
}

}  // namespace

void add_fit(CLI::App& app) {
  CLI::App* fit = app.add_subcommand(
      "fit", "Fit scaling laws to runs and compare structures at equal loss");
  auto flags = std::make_shared<FitFlags>();
  fit->add_option(
         "source",
         flags->source,
         "a search's folder or store, or CSV with the columns structure, run, "
         "compute, loss and, if there are, seconds, tokens, model, "
         "learning_rate and parameters; - is CSV from standard input")
      ->required();
  fit->add_option(
         "--metric", flags->metric, "flops (default), seconds or tokens")
      ->type_name("METRIC");
  CLI::Option* baseline = fit->add_option(
                                 "--baseline",
                                 flags->analysis.baseline,
                                 "structure compared with (dense)")
                              ->type_name("STRUCTURE");
  add_number(
      *fit,
      "--bootstrap",
      flags->analysis.bootstrap,
      "replicates behind the intervals; 0: no intervals",
      {0, 1e6});
  add_number(*fit, "--seed", flags->analysis.seed, "of the bootstrap");
  fit->add_option("--csv", flags->csv, "also write the table to this file")
      ->type_name("FILE");
  flags->json.add(*fit, "everything");
  fit->footer(
      "Examples:\n"
      "  einforge fit runs/demo/trials.db\n"
      "  einforge fit examples/scaling/cerebras_gpt.csv --json\n"
      "  einforge fit mine.csv --baseline gpt2 --metric seconds");
  fit->callback([flags, baseline] { run_fit(*flags, baseline->count() > 0); });
}

}  // namespace einforge::cli
