#include <fmt/format.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "cli/command.h"
#include "cli/make_report.h"
#include "cli/options.h"
#include "einforge/base/console.h"
#include "einforge/base/files.h"
#include "einforge/report/csv.h"
#include "einforge/report/html.h"
#include "einforge/report/json.h"
#include "einforge/report/optuna.h"
#include "einforge/report/ranking.h"
#include "einforge/report/style.h"
#include "einforge/report/summary.h"
#include "einforge/store/store.h"

namespace einforge::cli {
namespace {

struct ReportFlags {
  std::string store;
  std::string out = "report.html";
  JsonOption json;
  std::string csv;
  std::string points;
  std::string optuna;
  report::SummaryOptions options;
};

void run_report(const ReportFlags& flags, bool baseline_given) {
  const std::filesystem::path store = store_file(flags.store);
  check_outputs(
      {{"--out", flags.out},
       flags.json.output(),
       {"--csv", flags.csv},
       {"--points-csv", flags.points},
       {"--optuna", flags.optuna}},
      {store});
  if (baseline_given) {
    std::vector<std::string> names;
    for (const store::Trial& trial :
         store::Store::open_read_only(store).trials()) {
      names.push_back(report::display_name(trial.structure));
    }
    check_baseline(names, report::display_name(flags.options.baseline));
  }
  const report::Summary summary = make_report(store, flags.options);
  write_output(flags.out, report::to_html(summary));
  if (flags.json.given()) {
    flags.json.write_text(report::dump(report::to_json(summary)));
  }
  if (!flags.csv.empty()) {
    write_output(flags.csv, report::ranking_csv(summary));
  }
  if (!flags.points.empty()) {
    write_output(
        flags.points, report::points_csv(report::to_runs(summary.trials)));
  }
  if (!flags.optuna.empty()) {
    write_output(flags.optuna, report::optuna_journal(summary));
  }
  if (!flags.json.instead()) {
    base::print("{}{}\n", report::ranking_table(summary), flags.out);
  }
}

}  // namespace

void add_report(CLI::App& app) {
  CLI::App* report = app.add_subcommand(
      "report", "Write a search's results as one self-contained HTML page");
  auto flags = std::make_shared<ReportFlags>();
  report
      ->add_option(
          "store", flags->store, "the search's folder, or its trials.db")
      ->required();
  report->add_option("--out", flags->out, "HTML file (report.html)")
      ->type_name("FILE");
  flags->json.add(*report, "everything");
  report->add_option("--csv", flags->csv, "also write the ranking as CSV")
      ->type_name("FILE");
  report
      ->add_option(
          "--points-csv",
          flags->points,
          "also write all curves as CSV that `einforge fit` reads")
      ->type_name("FILE");
  report
      ->add_option(
          "--optuna",
          flags->optuna,
          "also write the trials as an Optuna journal, for optuna-dashboard")
      ->type_name("FILE");
  CLI::Option* baseline = report
                              ->add_option(
                                  "--baseline",
                                  flags->options.baseline,
                                  "structure compared with (dense)")
                              ->type_name("STRUCTURE");
  add_number(
      *report,
      "--bootstrap",
      flags->options.bootstrap,
      "replicates behind the intervals; 0: no intervals",
      {0, 1e6});
  add_number(*report, "--seed", flags->options.seed, "of the bootstrap");
  report->footer(
      "Examples:\n"
      "  einforge report runs/demo --out runs/demo/report.html\n"
      "  einforge report runs/demo/trials.db --json report.json --csv "
      "ranking.csv");
  report->callback(
      [flags, baseline] { run_report(*flags, baseline->count() > 0); });
}

}  // namespace einforge::cli
