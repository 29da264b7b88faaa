#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/cuda.h>
#include <torch/version.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cli/command.h"
#include "cli/make_report.h"
#include "cli/options.h"
#include "einforge/base/config.h"
#include "einforge/base/console.h"
#include "einforge/base/error.h"
#include "einforge/base/files.h"
#include "einforge/base/folders.h"
#include "einforge/base/process.h"
#include "einforge/base/progress.h"
#include "einforge/base/text.h"
#include "einforge/base/version.h"
#include "einforge/report/html.h"
#include "einforge/report/json.h"
#include "einforge/report/ranking.h"
#include "einforge/report/summary.h"
#include "einforge/search/config.h"
#include "einforge/search/confirmation.h"
#include "einforge/search/costs.h"
#include "einforge/search/estimate.h"
#include "einforge/search/exchange.h"
#include "einforge/search/folder.h"
#include "einforge/search/hardware.h"
#include "einforge/search/ledger.h"
#include "einforge/search/measuring.h"
#include "einforge/search/runner.h"
#include "einforge/search/space.h"
#include "einforge/search/speed.h"
#include "einforge/search/team.h"
#include "einforge/search/worker.h"
#include "einforge/store/location.h"
#include "einforge/store/store.h"
#include "einforge/train/device.h"

namespace einforge::cli {
namespace {

constexpr int kInterrupted = 130;  // as a shell reports SIGINT

struct SearchFlags {
  std::string config;
  std::vector<std::string> settings;
  std::string out;
  std::string store;
  std::string device;
  std::string flops;
  std::optional<std::int64_t> workers;
  std::string stop_when;
  bool dry_run = false;
  int check_times = 0;
  bool join = false;
  bool status = false;
  bool retry_failed = false;
  bool quiet = false;
  JsonOption json;
};

// The share of "gain < 1%".
double parse_gain(const std::string& text) {
  std::string rest = text;
  std::erase(rest, ' ');
  constexpr std::string_view kBegin = "gain<";
  base::check(
      rest.starts_with(kBegin) && rest.ends_with('%'),
      "--stop-when: expected 'gain < N%'; got '{}'",
      text);
  const double percent = base::parse_double(
      "--stop-when",
      rest.substr(kBegin.size(), rest.size() - kBegin.size() - 1));
  base::check(
      percent > 0 && std::isfinite(percent),
      "--stop-when: expected a gain above 0%; got '{}'",
      text);
  return percent / 100;
}

std::vector<std::string> all_gpus() {
  std::vector<std::string> devices;
  for (int i = 0; i < static_cast<int>(torch::cuda::device_count()); ++i) {
    devices.push_back(fmt::format("cuda:{}", i));
  }
  base::check(
      !devices.empty(), "--device all: expected GPUs; CUDA sees none here");
  return devices;
}

search::SearchConfig read_config(const SearchFlags& flags) {
  auto config = cli::read_config<search::SearchConfig, train::TrainConfig>(
      flags.config, flags.settings, "search", "train");
  if (!flags.out.empty()) {
    base::apply_setting(config, "out=" + flags.out);
  }
  if (!flags.store.empty()) {
    config.store = flags.store;
  }
  // Neither in a file nor in a message.
  config.store = store::without_password(config.store);
  if (!flags.device.empty()) {
    config.devices =
        flags.device == "all" ? all_gpus() : base::split(flags.device, ',');
    config.train.device = config.devices.front();
    if (config.devices.size() == 1) {
      config.devices.clear();  // nothing to take in turn
    }
  }
  if (!flags.flops.empty()) {
    config.train.flops = flags.flops;
  }
  if (flags.workers) {
    config.workers = *flags.workers;
  } else if (config.devices.size() > 1) {
    config.workers = std::max(
        config.workers,
        static_cast<std::int64_t>(config.devices.size()) /
            config.processes_per_trial);
  }
  if (!flags.stop_when.empty()) {
    base::check(
        config.scheduler.kind == "model",
        "--stop-when: expected scheduler.kind 'model'; got '{}'",
        config.scheduler.kind);
    config.scheduler.stop_gain = parse_gain(flags.stop_when);
  }
  config.validate();
  return config;
}

// The program that runs now, to be started as a worker: also when another has
// taken its place on the disk meanwhile.
constexpr const char* kOwnProgram = "/proc/self/exe";

// The words that this process was started with, passwords left out: they are
// kept with the trials and printed in reports.
std::string own_command() {
  std::ifstream file("/proc/self/cmdline", std::ios::binary);
  std::vector<std::string> words;
  for (std::string word; std::getline(file, word, '\0');) {
    words.push_back(base::shell_word(store::shown_word(word)));
  }
  return fmt::format("{}", fmt::join(words, " "));
}

base::Json versions() {
  return {
      {"einforge", base::version()},
      {"compiler", base::compiler()},
      {"torch", TORCH_VERSION}};
}

// What a search is expected to take.
struct Forecast {
  std::vector<double> seconds;  // beside the proposals; infinity: unknown
  double total_seconds = 0;
  double total_flops = 0;
  std::vector<search::PredictedStep> checked;
};

// A bar for each of the things that are measured.
search::OnMeasured measuring_bar(bool quiet) {
  auto progress = std::make_shared<std::unique_ptr<base::Progress>>();
  return [progress, quiet](const char* what, int done, int all) {
    if (quiet) {
      return;
    }
    if (!*progress || done == 1) {
      progress->reset();
      *progress = std::make_unique<base::Progress>(what, all);
    }
    (*progress)->update(done);
  };
}

Forecast forecast(
    const search::SearchConfig& config,
    const std::vector<search::Proposal>& proposals,
    int check_times) {
  constexpr int kMostKinds = 40;
  const base::TemporaryFolder scratch;
  const auto bar = measuring_bar(false);
  const auto speeds = search::measure_speeds(
      proposals,
      search::threads_per_worker(config),
      scratch.path() / "trial",
      kMostKinds,
      [&](int done, int all) { bar("measuring speeds", done, all); });
  Forecast result;
  result.checked = search::check_predictions(
      proposals,
      speeds,
      scratch.path() / "trial",
      check_times,
      static_cast<std::uint64_t>(config.scheduler.seed),
      [&](int done, int all) { bar("checking predictions", done, all); });
  const double share = search::expected_share_left(
      0,
      static_cast<int>(search::rung_count(config.scheduler)),
      static_cast<int>(config.scheduler.eta));
  std::vector<search::TrialCost> costs;
  for (const search::Proposal& proposal : proposals) {
    search::TrialCost& cost = costs.emplace_back();
    cost.kind = search::kind_of(proposal);
    if (const auto found = speeds.find(cost.kind); found != speeds.end()) {
      cost.flops_done = found->second.speed;
      cost.seconds = 1;
    }
    cost.flops_left = share * proposal.flops;
    result.total_flops += cost.flops_left;
  }
  result.seconds = search::seconds_left(costs);
  result.total_seconds =
      search::seconds_left(costs, static_cast<int>(config.workers));
  return result;
}

// The trials that keep the constraints of the search. What has to be measured
// for it is in the store afterwards.
std::vector<search::Proposal> propose(
    const search::SearchConfig& config, search::Use use, bool quiet) {
  std::vector<search::Proposal> proposals = search::propose(config);
  if (!search::measures(config, use)) {
    return proposals;
  }
  base::make_directory(config.out);
  const base::FolderLock lock(config.out);
  store::Store store = store::Store::open(search::folder_of(config).store());
  const search::Known known =
      search::measure_in(store, config, proposals, use, measuring_bar(quiet));
  const std::string sentence =
      search::apply_constraints(config, known.costs, proposals);
  if (use != search::Use::kJoin) {
    store.set_metadata("constraints", sentence);
  }
  return proposals;
}

base::Json finite(double value) {
  return std::isfinite(value) ? base::Json(value) : base::Json(nullptr);
}

// Of steps that were predicted, over what they were, sorted.
std::vector<double> errors_of(
    const std::vector<search::PredictedStep>& checked) {
  std::vector<double> errors;
  for (const search::PredictedStep& step : checked) {
    errors.push_back(std::abs(step.predicted_ms / step.measured_ms - 1));
  }
  std::ranges::sort(errors);
  return errors;
}

base::Json to_json(const std::vector<search::PredictedStep>& checked) {
  base::Json steps = base::Json::array();
  for (const search::PredictedStep& step : checked) {
    steps.push_back(
        {{"kind", step.kind},
         {"predicted_ms", step.predicted_ms},
         {"measured_ms", step.measured_ms}});
  }
  const std::vector<double> errors = errors_of(checked);
  return {
      {"median_error", errors[errors.size() / 2]},
      {"worst_error", errors.back()},
      {"steps", steps}};
}

base::Json to_json(
    const search::SearchConfig& config,
    const std::vector<search::Proposal>& proposals,
    const Forecast& expected) {
  base::Json trials = base::Json::array();
  for (std::size_t i = 0; i < proposals.size(); ++i) {
    const search::Proposal& proposal = proposals[i];
    trials.push_back(
        {{"id", proposal.trial.id},
         {"structure", proposal.trial.structure},
         {"model", proposal.trial.model},
         {"learning_rate", proposal.trial.learning_rate},
         {"seed", proposal.config.seed},
         {"parameters", proposal.parameters},
         {"steps", proposal.config.steps},
         {"tokens", proposal.tokens},
         {"flops", proposal.flops},
         {"seconds", finite(expected.seconds[i])},
         {"aliases", proposal.aliases},
         {"status", store::to_string(proposal.trial.status)},
         {"reason", proposal.trial.reason}});
  }
  base::Json json = {
      {"name", config.name},
      {"trials", trials},
      {"flops", expected.total_flops},
      {"seconds", finite(expected.total_seconds)}};
  if (!expected.checked.empty()) {
    json["command"] = own_command();
    json["hardware"] = search::describe_hardware(config);
    json["versions"] = versions();
    json["seed"] = config.scheduler.seed;
    json["check"] = to_json(expected.checked);
  }
  return json;
}

std::string human_time(double seconds) {
  return std::isfinite(seconds) ? base::human_duration(seconds) : "--";
}

void print_forecast(
    const search::SearchConfig& config,
    const std::vector<search::Proposal>& proposals,
    const Forecast& expected) {
  constexpr const char* kRow =
      "{:<30} {:<14} {:>8} {:>4} {:>8} {:>7} {:>8} {:>8} {:>8}\n";
  base::print(
      fmt::runtime(kRow),
      "structure",
      "model",
      "lr",
      "seed",
      "params",
      "steps",
      "tokens",
      "FLOPs",
      "time");
  for (std::size_t i = 0; i < proposals.size(); ++i) {
    const search::Proposal& proposal = proposals[i];
    if (proposal.trial.status == store::Status::kFailed) {
      base::print(
          "{:<30} {:<14} cannot be built: {}\n",
          proposal.trial.structure,
          proposal.trial.model,
          proposal.trial.reason);
      continue;
    }
    base::print(
        fmt::runtime(kRow),
        proposal.trial.structure,
        proposal.trial.model,
        fmt::format("{:g}", proposal.trial.learning_rate),
        proposal.config.seed,
        base::human_count(static_cast<double>(proposal.parameters)),
        proposal.config.steps,
        base::human_count(static_cast<double>(proposal.tokens)),
        base::human_count(proposal.flops),
        human_time(expected.seconds[i]));
  }
  if (const search::Notes notes = search::notes_on(proposals);
      !notes.aliases.empty()) {
    base::print("{}\n", notes.aliases);
  }
  base::print(
      "{} trials, {} FLOPs; about {} with {} worker{} of {} thread{}\n",
      proposals.size(),
      base::human_count(expected.total_flops),
      human_time(expected.total_seconds),
      config.workers,
      config.workers == 1 ? "" : "s",
      search::threads_per_worker(config),
      search::threads_per_worker(config) == 1 ? "" : "s");
  if (!expected.checked.empty()) {
    const std::vector<double> errors = errors_of(expected.checked);
    base::print(
        "steps of {} kinds of models that were predicted: off by {:.1f}% "
        "(median), {:.1f}% at most\n",
        errors.size(),
        100 * errors[errors.size() / 2],
        100 * errors.back());
  }
}

// Writes the report and prints what the search came to.
void conclude(
    const search::SearchConfig& config,
    const search::RunResult& result,
    const JsonOption& json,
    bool quiet) {
  const search::Folder folder = search::folder_of(config);
  report::SummaryOptions options;
  options.bootstrap = static_cast<int>(config.bootstrap);
  const report::Summary summary = make_report(folder.store(), options, quiet);
  base::Json numbers = report::to_json(summary);
  base::write_file_atomically(
      folder.report_json(), report::dump(numbers) + "\n");
  base::write_file_atomically(folder.report(), report::to_html(summary));
  if (!json.instead()) {
    base::print(
        "{}{} trials: {} done, {} failed, {} pruned, in {}\n{}\n",
        report::ranking_table(summary),
        result.total,
        result.done,
        result.failed,
        result.pruned,
        base::human_duration(result.seconds),
        folder.report().string());
  }
  numbers["search"] = {
      {"name", config.name},
      {"store", folder.store()},
      {"report", folder.report().string()},
      {"total", result.total},
      {"done", result.done},
      {"failed", result.failed},
      {"pruned", result.pruned},
      {"seconds", result.seconds}};
  json.write_text(report::dump(numbers));
}

search::RunOptions run_options(const SearchFlags& flags) {
  search::RunOptions options;
  options.worker_command = {kOwnProgram, "search-worker"};
  options.command = own_command();
  options.versions = versions();
  options.should_stop = base::StopSignals::requested;
  options.retry_failed = flags.retry_failed;
  options.join = flags.join;
  options.quiet = flags.quiet;
  return options;
}

void print_line(const base::Json& line) {
  base::print("{}\n", base::dump_json(line));
}

// Makes the folder of the search and holds it while `work` uses its ledger.
void with_ledger(
    const search::SearchConfig& config,
    const std::vector<search::Proposal>& proposals,
    const std::function<void(search::Ledger&)>& work) {
  base::check_folder(config.out, base::FolderKind::kSearch);
  base::make_directory(config.out);
  const base::FolderLock lock(config.out);
  search::Ledger ledger(config, proposals, false);
  work(ledger);
}

void run_ask(const SearchFlags& flags, int count) {
  const search::SearchConfig config = read_config(flags);
  const std::vector<search::Proposal> proposals =
      propose(config, search::Use::kAsk, true);
  with_ledger(config, proposals, [&](search::Ledger& ledger) {
    for (const base::Json& line : search::ask(proposals, ledger, count)) {
      print_line(line);
    }
  });
}

void tell_results(
    const search::SearchConfig& config, const std::vector<base::Json>& lines) {
  const std::vector<search::Proposal> proposals =
      propose(config, search::Use::kAsk, true);
  with_ledger(config, proposals, [&](search::Ledger& ledger) {
    for (const base::Json& line : lines) {
      print_line(search::tell(proposals, ledger, line));
    }
    ledger.note_predictions();
  });
}

// Trains what the lines propose and prints what became of it, in their order.
void train_told(
    const search::SearchConfig& config,
    const SearchFlags& flags,
    const std::vector<base::Json>& lines) {
  train::resolve_device(config.train.device);
  base::check_folder(config.out, base::FolderKind::kSearch);
  search::RunOptions options = run_options(flags);
  std::vector<search::Proposal> proposals;
  std::map<std::string, std::size_t> places;
  std::vector<std::size_t> order;
  for (const base::Json& line : lines) {
    search::Told told = search::told(config, line);
    const auto [place, added] =
        places.emplace(told.proposal.trial.id, proposals.size());
    order.push_back(place->second);
    if (added) {
      proposals.push_back(std::move(told.proposal));
      options.targets.push_back(told.rungs);
    } else {
      int& target = options.targets[place->second];
      target = std::max(target, told.rungs);
    }
  }
  const search::RunResult result = [&] {
    const base::StopSignals signals;
    return search::run(config, proposals, options);
  }();
  if (result.interrupted) {
    throw CLI::RuntimeError(kInterrupted);
  }
  const base::FolderLock lock(config.out);
  search::Ledger ledger(config, proposals, false, options.targets);
  for (const std::size_t place : order) {
    print_line(search::outcome(proposals[place], ledger));
  }
}

void run_tell(const SearchFlags& flags) {
  const search::SearchConfig config = read_config(flags);
  std::vector<base::Json> lines;
  std::size_t results = 0;
  std::size_t number = 0;
  for (std::string line; std::getline(std::cin, line);) {
    ++number;
    if (!base::trim(line).empty()) {
      lines.push_back(base::parse_json(
          line, fmt::format("standard input, line {}", number)));
      results +=
          lines.back().is_object() && lines.back().contains("id") ? 1 : 0;
    }
  }
  base::check(
      results == 0 || results == lines.size(),
      "tell: expected results ('id', 'loss') or proposals ('structure', ...); "
      "got both");
  if (lines.empty()) {
    return;
  }
  if (results > 0) {
    tell_results(config, lines);
  } else {
    train_told(config, flags, lines);
  }
}

// How far speeds measured before training were from those of the trials.
std::string speed_errors(const store::Store& store) {
  const std::map<std::string, double> speeds = search::Ledger::speeds(store);
  std::vector<double> errors;
  for (const store::Trial& trial : store.trials()) {
    const auto speed = speeds.find(search::kind_of(trial));
    if (speed != speeds.end() && trial.flops > 0 && trial.seconds > 0) {
      errors.push_back(
          std::abs(trial.flops / trial.seconds / speed->second - 1));
    }
  }
  if (errors.empty()) {
    return "";
  }
  std::ranges::sort(errors);
  return fmt::format(
      " Speeds measured before training were off by {:.0f}% (median), {:.0f}% "
      "at most.",
      100 * errors[errors.size() / 2],
      100 * errors.back());
}

// For the report: what the model left out.
void note_outcome(
    const search::SearchConfig& config, const search::RunResult& result) {
  if (!result.belief) {
    return;
  }
  const base::FolderLock lock(config.out);
  store::Store store = store::Store::open(search::folder_of(config).store());
  store.set_metadata(
      "outcome",
      fmt::format(
          "{} of {} trials were trained, {} of them to the end; {} of the "
          "others are not expected to beat the best, even at the upper end of "
          "their 95% intervals.{}",
          result.begun,
          result.total,
          result.done,
          result.belief->hopeless,
          speed_errors(store)));
}

// No trial has a loss, so that there is nothing to be said about structures.
void check_any_succeeded(
    const search::SearchConfig& config, const search::RunResult& result) {
  if (result.total == 0 || result.failed < result.total) {
    return;
  }
  const store::Store store =
      store::Store::open_read_only(search::folder_of(config).store());
  const std::vector<store::Trial> trials = store.trials();
  const auto bad = std::ranges::find_if(trials, search::is_bad);
  base::note(
      "{}: none of {} trials has a result{}\n",
      config.name,
      result.total,
      bad == trials.end()
          ? ""
          : fmt::format("; {}: {}", search::label(*bad), bad->reason));
  constexpr int kFailed = 1;
  throw CLI::RuntimeError(kFailed);
}

// Trains the best again and notes what that says for the report.
void confirm(
    const search::SearchConfig& config,
    const std::vector<search::Proposal>& proposals,
    const SearchFlags& flags) {
  search::Confirmation again;
  with_ledger(config, proposals, [&](search::Ledger& ledger) {
    again = search::confirmation(config, proposals, ledger);
  });
  if (again.proposals.empty()) {
    base::note(
        "{}: nothing to confirm: neither the baseline nor others ended\n",
        config.name);
    return;
  }
  const search::RunResult result = [&] {
    const base::StopSignals signals;
    return search::run(again.config, again.proposals, run_options(flags));
  }();
  if (result.interrupted) {
    throw CLI::RuntimeError(kInterrupted);
  }
  std::string sentence;
  with_ledger(again.config, again.proposals, [&](search::Ledger& ledger) {
    sentence = search::confirmed(again, ledger);
  });
  with_ledger(config, proposals, [&](search::Ledger& ledger) {
    ledger.store().set_metadata("confirmation", sentence);
  });
}

void check_can_join(const search::SearchConfig& config) {
  base::check(
      !config.store.empty(),
      "--join: expected a search in a database (--store "
      "postgresql://HOST/DATABASE); got one in a file");
  // Throws where there is none.
  store::Store::open_read_only(search::folder_of(config).store());
}

// How the search stands, by its store alone.
void print_status(const std::string& location, const JsonOption& json) {
  const store::Store store = store::Store::open_read_only(location);
  std::map<std::string, int> counts;
  base::Json running = base::Json::array();
  double seconds = 0;
  for (const store::Trial& trial : store.trials()) {
    ++counts[store::to_string(trial.status)];
    seconds += trial.seconds;
    if (trial.status == store::Status::kRunning) {
      const auto curve = store.curve(trial.id);
      running.push_back(
          {{"trial", trial.id},
           {"label", search::label(trial)},
           {"worker", trial.worker},
           {"claims", trial.fence},
           {"step", curve.empty() ? 0 : curve.back().step},
           {"steps", trial.config.value("steps", std::int64_t{0})}});
    }
  }
  base::Json status = {
      {"store", store::without_password(location)},
      {"name", store.metadata().value("name", "")},
      {"trials", counts},
      {"seconds", seconds},
      {"running", running}};
  json.write_text(base::dump_json(status, 2) + "\n");
  if (json.instead()) {
    return;
  }
  for (const auto& [name, count] : counts) {
    base::print("{:>6} {}\n", count, name);
  }
  for (const base::Json& trial : running) {
    base::print(
        "running {}: step {} of {}, by {}\n",
        trial["label"].get<std::string>(),
        trial["step"].get<std::int64_t>(),
        trial["steps"].get<std::int64_t>(),
        trial["worker"].get<std::string>());
  }
}

void show_forecast(
    const search::SearchConfig& config,
    int check_times,
    const JsonOption& json) {
  std::vector<search::Proposal> proposals = search::propose(config);
  std::string sentence;
  if (!config.constraints.empty()) {
    const search::Known known = search::measure(
        config, proposals, {}, search::Use::kTrain, measuring_bar(false));
    sentence = search::apply_constraints(config, known.costs, proposals);
  }
  const Forecast expected = forecast(config, proposals, check_times);
  json.write_text(report::dump(to_json(config, proposals, expected)));
  if (!json.instead()) {
    print_forecast(config, proposals, expected);
    if (!sentence.empty()) {
      base::print("{}\n", sentence);
    }
  }
}

void run_search(const SearchFlags& flags) {
  const search::SearchConfig config = read_config(flags);
  // A missing GPU is an error of the whole search, not of its trials.
  train::resolve_device(config.train.device);
  for (const std::string& device : config.devices) {
    train::resolve_device(device);
  }
  const search::Folder folder = search::folder_of(config);
  if (flags.status) {
    print_status(folder.store(), flags.json);
    return;
  }
  check_outputs(
      {flags.json.output()},
      {flags.config, folder.store(), folder.config(), folder.log()},
      flags.dry_run ? "" : config.out);
  base::check_folder(config.out, base::FolderKind::kSearch);
  if (flags.dry_run) {
    show_forecast(config, flags.check_times, flags.json);
    return;
  }
  if (flags.join) {
    check_can_join(config);
  }
  const std::vector<search::Proposal> proposals = propose(
      config,
      flags.join ? search::Use::kJoin : search::Use::kTrain,
      flags.quiet);
  const search::RunOptions options = run_options(flags);
  const search::RunResult result = [&] {
    const base::StopSignals signals;
    return search::run(config, proposals, options);
  }();
  if (result.interrupted) {
    base::note(
        "{}: stopped with {} of {} trials over; the same command goes on where "
        "it was\n",
        config.name,
        result.done + result.failed,
        result.total);
    throw CLI::RuntimeError(kInterrupted);
  }
  note_outcome(config, result);
  if (config.confirm.top > 0) {
    confirm(config, proposals, flags);
  }
  if (!flags.join) {  // else the report is the other's
    conclude(config, result, flags.json, flags.quiet);
  }
  check_any_succeeded(config, result);
}

// Options that the search has in common with ask and tell.
void add_config_options(CLI::App& command, SearchFlags& flags) {
  command
      .add_option(
          "--set", flags.settings, "override a key of the file; repeatable")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);  // a config may follow
  command
      .add_option(
          "--out", flags.out, "folder of the store, the trials and the report")
      ->type_name("FOLDER");
  command
      .add_option(
          "--store",
          flags.store,
          "database of the trials, for several machines")
      ->type_name("postgresql://HOST/DATABASE");
  add_number(
      command,
      "--workers",
      flags.workers,
      "trials trained side by side",
      {1, 256});
  command
      .add_option(
          "--device",
          flags.device,
          "auto, cpu, cuda or cuda:N; cuda:0,cuda:1 for a worker on each, all "
          "for one on each GPU")
      ->type_name("DEVICE");
}

void add_exchange(CLI::App& search) {
  const auto add_config = [](CLI::App* command, SearchFlags& flags) {
    command
        ->add_option("config", flags.config, "TOML or JSON; see docs/search.md")
        ->required();
    add_config_options(*command, flags);
  };
  CLI::App* ask = search.add_subcommand(
      "ask",
      "Print trials that the scheduler wants, as JSON lines, to train them "
      "elsewhere");
  auto asked = std::make_shared<SearchFlags>();
  auto count = std::make_shared<int>(1);
  add_config(ask, *asked);
  add_number(*ask, "--count", *count, "trials at most", {1, 256});
  ask->footer(
      "The same trials again until `einforge search tell` has their results; "
      "none\nwhen the search is over. docs/search.md has the keys.\n"
      "Example:\n"
      "  einforge search ask search.toml --count 4 > trials.jsonl");
  ask->callback([asked, count] { run_ask(*asked, *count); });

  CLI::App* tell = search.add_subcommand(
      "tell",
      "Read JSON lines: record results of trials asked for, or train trials "
      "that are proposed");
  auto told = std::make_shared<SearchFlags>();
  told->quiet = true;
  add_config(tell, *told);
  tell->footer(
      "Example:\n"
      "  echo '{\"structure\": \"btt:0.2\"}' | einforge search tell "
      "search.toml");
  tell->callback([told] { run_tell(*told); });
}

}  // namespace

void add_search(CLI::App& app) {
  CLI::App* search = app.add_subcommand(
      "search", "Train structures x sizes x learning rates and rank them");
  auto flags = std::make_shared<SearchFlags>();
  // Not required(): it would take `ask` for itself.
  search->add_option(
      "config", flags->config, "TOML or JSON; see docs/search.md");
  add_config_options(*search, *flags);
  add_exchange(*search);
  search
      ->add_option(
          "--flops",
          flags->flops,
          "paper: count attention's full square, as the paper does")
      ->type_name("causal|paper")
      ->check(one_of("--flops", {"causal", "paper"}));
  search
      ->add_option(
          "--stop-when",
          flags->stop_when,
          "'gain < 1%': end when no trial is expected to raise the multiplier "
          "by more (scheduler model)")
      ->type_name("RULE");
  search->add_flag(
      "--dry-run", flags->dry_run, "show the trials, their cost and time");
  add_number(
      *search,
      "--check-times",
      flags->check_times,
      "with --dry-run: train so many models whose times are predicted for a "
      "few steps too, and say how far off these were",
      {0, 10000});
  search->add_flag(
      "--retry-failed",
      flags->retry_failed,
      "run trials again that failed or diverged");
  search->add_flag(
      "--join",
      flags->join,
      "take part in a search that another machine has begun (with --store)");
  search->add_flag(
      "--status", flags->status, "say how the search stands, and end");
  search->add_flag("--quiet", flags->quiet, "no progress display");
  flags->json.add(*search);
  search->footer(
      "A search that was stopped or killed goes on when started again.\n"
      "Examples:\n"
      "  einforge search examples/configs/demo.toml --out runs/demo\n"
      "  einforge search examples/configs/demo.toml --dry-run\n"
      "  einforge search search.toml --set "
      "'structures=[\"dense\",\"btt:0.25\"]' "
      "\\\n"
      "      --set budget.tokens=5e6 --workers 2 --device cpu\n"
      "  einforge search search.toml --store postgresql://db/einforge --join");
  search->callback([search, flags] {
    if (!search->get_subcommands().empty()) {
      return;
    }
    base::check(
        !flags->config.empty(),
        "search: expected CONFIG; got none (see --help)");
    run_search(*flags);
  });

  // What the search starts; see search/worker.h.
  CLI::App* worker = app.add_subcommand("search-worker", "");
  worker->group("");  // hidden
  auto folder = std::make_shared<std::string>();
  auto threads = std::make_shared<int>(1);
  worker->add_option("folder", *folder)->required();
  worker->add_option("threads", *threads)->required();
  auto device = std::make_shared<std::string>();
  worker->add_option("device", *device)->required();
  auto member = std::make_shared<bool>(false);
  worker->add_flag("--member", *member);
  worker->callback([folder, threads, device, member] {
    const int code = *member ? search::run_member(*threads, *device)
                             : search::run_worker(*folder, *threads, *device);
    if (code != 0) {
      throw CLI::RuntimeError(code);
    }
  });
}

}  // namespace einforge::cli
