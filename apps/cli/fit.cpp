#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "cli/command.h"
#include "cli/make_report.h"
#include "einforge/base/error.h"
#include "einforge/base/files.h"
#include "einforge/base/text.h"
#include "einforge/report/csv.h"
#include "einforge/report/json.h"
#include "einforge/report/ranking.h"
#include "einforge/report/summary.h"
#include "einforge/scaling/analysis.h"
#include "einforge/store/store.h"

namespace einforge::cli {
namespace {

struct FitFlags {
  std::string source;
  std::string metric = "flops";
  std::string csv;
  scaling::AnalysisOptions analysis;
  bool json = false;
};

bool is_database(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string head(15, '\0');
  file.read(head.data(), static_cast<std::streamsize>(head.size()));
  return head == "SQLite format 3";
}

std::vector<scaling::Run> read_runs(const std::string& given) {
  const std::string source = store_file(given).string();
  const auto runs = is_database(source)
                        ? report::to_runs(report::read_trials(
                              store::Store::open_read_only(source)))
                        : scaling::read_csv(source);
  base::check(
      !runs.empty(), "'{}': expected trials with curves; got none", source);
  return scaling::best_learning_rates(runs);
}

void check_baseline(
    const std::vector<scaling::Run>& runs, const std::string& baseline) {
  std::vector<std::string> names;
  for (const scaling::Run& run : runs) {
    if (std::find(names.begin(), names.end(), run.structure) == names.end()) {
      names.push_back(run.structure);
    }
  }
  base::check(
      std::find(names.begin(), names.end(), baseline) != names.end(),
      "baseline: expected one of {}; got '{}'{}",
      fmt::join(names, ", "),
      baseline,
      base::suggestion(baseline, names));
}

void run_fit(const FitFlags& flags, bool baseline_given) {
  scaling::AnalysisOptions options = flags.analysis;
  options.metric = scaling::parse_metric(flags.metric);
  const auto runs = read_runs(flags.source);
  if (baseline_given) {
    check_baseline(runs, options.baseline);
  }
  const scaling::Analysis analysis = scaling::analyse(runs, options);
  base::check(
      !analysis.structures.empty(),
      "'{}': expected runs with {}; got none",
      flags.source,
      flags.metric);
  if (!flags.csv.empty()) {
    base::write_file_atomically(flags.csv, report::ranking_csv(analysis));
  }
  if (flags.json) {
    fmt::print("{}\n", report::dump(report::to_json(analysis)));
  } else {
    fmt::print("{}", report::fit_table(analysis));
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
         "a search's store, or CSV: structure,run,compute,loss[,seconds]"
         "[,tokens][,model][,learning_rate]")
      ->required();
  fit->add_option(
      "--metric", flags->metric, "flops (default), seconds or tokens");
  CLI::Option* baseline = fit->add_option(
      "--baseline",
      flags->analysis.baseline,
      "structure compared with (dense)");
  fit->add_option(
         "--bootstrap",
         flags->analysis.bootstrap,
         "replicates behind the intervals (1000); 0: no intervals")
      ->check(CLI::Range(0, 1'000'000));
  fit->add_option("--seed", flags->analysis.seed, "of the bootstrap (0)")
      ->check(CLI::NonNegativeNumber);
  fit->add_option("--csv", flags->csv, "also write the table to this file");
  fit->add_flag("--json", flags->json, "print everything as JSON");
  fit->footer(
      "Examples:\n"
      "  einforge fit runs/demo/trials.db\n"
      "  einforge fit examples/scaling/cerebras_gpt.csv --json\n"
      "  einforge fit mine.csv --baseline gpt2 --metric seconds");
  fit->callback([flags, baseline] { run_fit(*flags, baseline->count() > 0); });
}

}  // namespace einforge::cli
