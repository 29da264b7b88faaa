#include <fmt/format.h>

#include <memory>
#include <string>

#include "cli/command.h"
#include "cli/make_report.h"
#include "einforge/base/files.h"
#include "einforge/report/csv.h"
#include "einforge/report/html.h"
#include "einforge/report/json.h"
#include "einforge/report/ranking.h"
#include "einforge/report/summary.h"

namespace einforge::cli {
namespace {

struct ReportFlags {
  std::string store;
  std::string out = "report.html";
  std::string json;
  std::string csv;
  std::string points;
  report::SummaryOptions options;
};

void run_report(const ReportFlags& flags) {
  const report::Summary summary =
      make_report(store_file(flags.store), flags.options);
  base::write_file_atomically(flags.out, report::to_html(summary));
  if (!flags.json.empty()) {
    base::write_file_atomically(
        flags.json, report::dump(report::to_json(summary)) + "\n");
  }
  if (!flags.csv.empty()) {
    base::write_file_atomically(flags.csv, report::ranking_csv(summary));
  }
  if (!flags.points.empty()) {
    base::write_file_atomically(
        flags.points, report::points_csv(report::to_runs(summary.trials)));
  }
  fmt::print("{}{}\n", report::ranking_table(summary), flags.out);
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
  report->add_option("--out", flags->out, "HTML file (report.html)");
  report->add_option("--json", flags->json, "also write everything as JSON");
  report->add_option("--csv", flags->csv, "also write the ranking as CSV");
  report->add_option(
      "--points-csv",
      flags->points,
      "also write all curves as CSV that `einforge fit` reads");
  report->add_option(
      "--baseline", flags->options.baseline, "structure compared with (dense)");
  report
      ->add_option(
          "--bootstrap",
          flags->options.bootstrap,
          "replicates behind the intervals (1000); 0: no intervals")
      ->check(CLI::Range(0, 1'000'000));
  report->add_option("--seed", flags->options.seed, "of the bootstrap (0)")
      ->check(CLI::NonNegativeNumber);
  report->footer(
      "Examples:\n"
      "  einforge report runs/demo --out runs/demo/report.html\n"
      "  einforge report runs/demo/trials.db --json report.json --csv "
      "ranking.csv");
  report->callback([flags] { run_report(*flags); });
}

}  // namespace einforge::cli
