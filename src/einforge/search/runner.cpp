#include "einforge/search/runner.h"

#include <fmt/format.h>
#include <poll.h>
#include <signal.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <ctime>
#include <map>
#include <optional>
#include <string>
#include <thread>

#include "einforge/base/error.h"
#include "einforge/base/files.h"
#include "einforge/base/text.h"
#include "einforge/search/folder.h"
#include "einforge/search/hardware.h"
#include "einforge/search/ledger.h"
#include "einforge/search/process.h"
#include "einforge/search/snapshot.h"
#include "einforge/train/machine_load.h"

namespace einforge::search {
namespace {

using store::Status;
using store::Trial;
using Clock = std::chrono::steady_clock;

// "2026-11-30T03:17:25Z"
std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  ::gmtime_r(&now, &parts);
  std::array<char, 32> text{};
  std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text.data();
}

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Of what a worker printed, which may be anything.
std::string text_of(const base::Json& event, const char* key) {
  const auto found = event.find(key);
  return found != event.end() && found->is_string() ? found->get<std::string>()
                                                    : "";
}

template <typename T>
T number_of(const base::Json& event, const char* key, T otherwise) {
  const auto found = event.find(key);
  return found != event.end() && found->is_number() ? found->get<T>()
                                                    : otherwise;
}

struct Worker {
  Worker(const Child::Options& options, std::string its_devices)
      : child(options), devices(std::move(its_devices)) {}

  enum class State {
    kPreparing,  // it loads, or has just ended a trial
    kIdle,
    kAssigned,  // it was given a trial and has not said that it trains it
    kTraining,
  };

  Child child;
  std::string devices;
  State state = State::kPreparing;
  Clock::time_point since = Clock::now();  // of the state
  Clock::time_point held = Clock::now();   // its trial is its, last seen
  bool trained = false;                    // some trial
  bool overdue = false;                    // and killed for it
  WorkerProgress progress;

  void become(State next) {
    state = next;
    since = Clock::now();
  }
};

class Runner {
 public:
  Runner(
      const SearchConfig& config,
      const std::vector<Proposal>& proposals,
      const RunOptions& options)
      : config_(config),
        proposals_(proposals),
        options_(options),
        folder_(folder_of(config)),
        threads_(threads_per_process(config)),
        groups_(device_groups(config)),
        most_workers_(static_cast<std::size_t>(config.workers)),
        display_(options.quiet) {
    base::make_directory(folder_.root);
    base::make_directory(folder_.trials());
    lock_.emplace(folder_.root);
    ledger_.emplace(config, proposals, options.retry_failed, options.targets);
    shared_ = ledger_->store().is_shared();
    describe();
  }

  RunResult run() {
    announce();
    note_origin();
    auto last_reclaim = Clock::now();
    while (!(workers_.empty() && stopping_)) {
      if (!stopping_) {
        dispatch();
      }
      wait_for_events();
      for (Worker& worker : workers_) {
        read_events(worker);
      }
      reap();
      // Workers of a search that was killed a moment ago may still have been
      // dying when this one started.
      if (seconds_since(last_reclaim) > 1) {
        last_reclaim = Clock::now();
        ledger_->reclaim();
        if (shared_) {
          ledger_->refresh();
        }
        kill_overdue();
        watch_others();
      }
      if (!stopping_ && options_.should_stop && options_.should_stop()) {
        display_.log("stopping: workers write their checkpoints");
        stop();
      }
      if (!stopping_ && !fatal_.empty()) {
        stop();
      }
      show();
    }
    show(true);
    note_end();
    if (!fatal_.empty()) {
      throw base::IoError(fatal_);
    }
    return result();
  }

 private:
  void describe() {
    store::Store& store = ledger_->store();
    const base::Json config = base::to_json(config_);
    if (!options_.join) {
      store.set_metadata("name", config_.name);
      store.set_metadata("search", config);
    }
    base::write_file_atomically(
        folder_.config(), base::dump_json(config, 2) + "\n");
  }

  // What the trials of this start come from. A search that is over keeps what
  // it has: starting it again trains nothing.
  void note_origin() {
    store::Store& store = ledger_->store();
    const base::Json before = store.metadata();
    nothing_to_do_ =
        options_.join || (ledger_->finished() && before.contains("hardware"));
    if (nothing_to_do_) {
      return;
    }
    seconds_before_ = before.value("elapsed_seconds", 0.0);
    if (!before.contains("started")) {
      store.set_metadata("started", utc_now());
    }
    store.set_metadata("command", options_.command);
    hardware_ = describe_hardware(config_);
    load_before_ = before.value("/hardware/load"_json_pointer, 0.0);
    store.set_metadata("hardware", hardware_);
    store.set_metadata("versions", options_.versions);
    store.set_metadata(
        "seeds", {{"trials", config_.seeds}, {"draw", config_.scheduler.seed}});
  }

  void note_elapsed() {
    if (options_.join) {
      return;
    }
    ledger_->store().set_metadata(
        "elapsed_seconds", seconds_before_ + seconds_since(started_));
    note_load();
  }

  // The share of the CPUs that other programs took, mean over all starts: what
  // the report judges its seconds by. A GPU's seconds depend on it too little.
  void note_load() {
    if (hardware_.contains("gpu") && config_.train.device != "cpu") {
      return;
    }
    const double others = load_.others();
    if (std::isnan(others)) {
      return;  // too short a time
    }
    const double seconds = seconds_since(load_mark_);
    load_mark_ = Clock::now();
    load_seconds_ += seconds;
    load_sum_ += seconds * others / load_.cpus();
    hardware_["load"] = (load_before_ * seconds_before_ + load_sum_) /
                        (seconds_before_ + load_seconds_);
    ledger_->store().set_metadata("hardware", hardware_);
  }

  void note_end() {
    if (!nothing_to_do_ && fatal_.empty()) {
      ledger_->note_predictions();
      note_elapsed();
      ledger_->store().set_metadata("finished", utc_now());
    }
  }

  void announce() {
    const Notes notes = notes_on(proposals_);
    if (!notes.failures.empty()) {
      display_.log(fmt::format("{}: {}", config_.name, notes.failures), true);
    }
    if (!notes.aliases.empty()) {
      display_.log(fmt::format("{}: {}", config_.name, notes.aliases));
    }
    int left = 0;
    for (std::size_t i = 0; i < proposals_.size(); ++i) {
      left += ledger_->over(i) ? 0 : 1;
    }
    display_.log(fmt::format(
        "{}: {} trials, {} to run, {} worker{} of {} thread{}, in {}",
        config_.name,
        proposals_.size(),
        left,
        config_.workers,
        config_.workers == 1 ? "" : "s",
        threads_per_worker(config_),
        threads_per_worker(config_) == 1 ? "" : "s",
        config_.out));
  }

  // Sees that somebody trains what is queued.
  void dispatch() {
    if (ledger_->finished()) {
      stop();
      return;
    }
    std::size_t preparing = 0;
    for (Worker& worker : workers_) {
      preparing += worker.state == Worker::State::kPreparing ? 1 : 0;
      if (worker.state != Worker::State::kIdle) {
        continue;
      }
      if (const std::optional<std::string> trial = ledger_->take()) {
        worker.progress = {.trial = *trial};
        worker.become(Worker::State::kAssigned);
        worker.child.send("train " + *trial);
      }
    }
    while (preparing < ledger_->queued() && workers_.size() < most_workers_) {
      start_worker();
      ++preparing;
    }
  }

  void start_worker() {
    const std::string threads = std::to_string(threads_);
    const std::string group = least_used_group();
    const bool numbered =
        config_.processes_per_trial > 1 && group.starts_with("cuda:");
    Child::Options options;
    options.command = options_.worker_command;
    options.command.push_back(folder_.root.string());
    options.command.push_back(threads);
    options.command.push_back(
        numbered ? "cuda" : group.substr(0, group.find(',')));
    options.log = folder_.log();
    // Read when the libraries load, before the worker can say so itself.
    options.environment = {
        {"OMP_NUM_THREADS", threads}, {"MKL_NUM_THREADS", threads}};
    if (numbered) {
      const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
      options.environment.emplace_back(
          "CUDA_VISIBLE_DEVICES",
          visible_devices(group, visible == nullptr ? "" : visible));
    }
    workers_.emplace_back(options, group);
  }

  std::string least_used_group() const {
    return *std::ranges::min_element(
        groups_, {}, [&](const std::string& group) {
          return std::ranges::count(workers_, group, &Worker::devices);
        });
  }

  void stop() {
    stopping_ = true;
    for (Worker& worker : workers_) {
      worker.since = Clock::now();
      worker.child.ask_to_stop();
    }
  }

  void wait_for_events() {
    std::vector<pollfd> files;
    for (const Worker& worker : workers_) {
      files.push_back({worker.child.event_file(), POLLIN, 0});
    }
    if (files.empty() && stopping_) {
      return;
    }
    constexpr int kMilliseconds = 200;
    ::poll(files.data(), files.size(), kMilliseconds);
    // The end of a pipe shows as ready until the process is reaped.
    if (std::any_of(files.begin(), files.end(), [](const pollfd& file) {
          return (file.revents & POLLHUP) != 0;
        })) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  }

  void read_events(Worker& worker) {
    WorkerProgress& progress = worker.progress;
    for (const base::Json& event : worker.child.events()) {
      const std::string kind = text_of(event, "event");
      if (kind == "start") {
        progress.target = number_of<std::int64_t>(event, "target", 0);
        worker.trained = true;
        worker.become(Worker::State::kTraining);
        startup_failures_ = 0;
        refusals_ = 0;
        ledger_->reload(progress.trial);
      } else if (kind == "step") {
        progress.step = number_of<std::int64_t>(event, "step", 0);
        progress.loss = number_of<double>(event, "loss", NAN);
        if (progress.first_step < 0) {
          progress.first_step = progress.step;
          progress.started = Clock::now();
        }
      } else if (kind == "end") {
        end_trial(progress.trial);
        progress = {};
        worker.become(Worker::State::kPreparing);
      } else if (kind == "refused") {
        refused(progress.trial);
        progress = {};
        worker.become(Worker::State::kPreparing);
      } else if (kind == "idle") {
        worker.become(Worker::State::kIdle);
      } else if (kind == "fatal" && fatal_.empty()) {
        fatal_ = text_of(event, "message");
      }
    }
  }

  void end_trial(const std::string& id) {
    ledger_->reload(id);
    const Trial& trial = trial_of(id);
    if (is_bad(trial)) {
      log_bad(trial);
    } else if (
        trial.status == Status::kDone || trial.status == Status::kPruned) {
      display_.log(fmt::format(
          "{}: loss {:.4f} in {}",
          label(trial),
          trial.final_loss,
          base::human_duration(trial.seconds)));
    }
    note_elapsed();
  }

  // The trial that a worker was given is not queued in the store.
  void refused(const std::string& id) {
    ledger_->reload(id);
    constexpr int kMostRefusals = 20;
    if (shared_) {
      return;  // another machine was faster
    }
    if (++refusals_ >= kMostRefusals && fatal_.empty()) {
      fatal_ = fmt::format(
          "search: workers cannot claim trials that are queued; another "
          "program writes to '{}'",
          folder_.store());
    }
  }

  void log_bad(const Trial& trial) {
    display_.log(
        fmt::format(
            "{}: {}: {}",
            label(trial),
            store::to_string(trial.status),
            trial.reason),
        true);
  }

  // Removes workers that have exited and deals with those that were killed.
  void reap() {
    for (auto worker = workers_.begin(); worker != workers_.end();) {
      std::string how;
      if (!worker->child.exited(how)) {
        ++worker;
        continue;
      }
      read_events(*worker);  // its last words
      if (worker->overdue) {
        how = fmt::format("no word in {:g} s", options_.patience);
      }
      const std::string name = worker->child.name();
      const std::string trial = worker->progress.trial;
      const bool trained = worker->trained;
      worker = workers_.erase(worker);
      if (!trial.empty()) {
        ledger_->reload(trial);
        worker_exited(trial, name, how);
      }
      if (!trained && !stopping_ && fatal_.empty()) {
        startup_failed(how);
      }
      ledger_->release(name);
    }
  }

  // While it had this trial.
  void worker_exited(
      const std::string& id, const std::string& name, const std::string& how) {
    const Trial trial = trial_of(id);
    if (stopping_ || !fatal_.empty() || trial.status != Status::kRunning ||
        trial.worker != name) {
      return;
    }
    const int exits = ++exits_[id];
    if (exits < config_.attempts) {
      display_.log(
          fmt::format(
              "{}: its worker exited with {}; resuming it", label(trial), how),
          true);
      return;
    }
    ledger_->fail(
        id,
        fmt::format(
            "its worker exited {} times while training it, last with {}",
            exits,
            how));
    log_bad(trial_of(id));
  }

  // A worker exited before it trained anything.
  void startup_failed(const std::string& how) {
    constexpr int kMostStartupFailures = 3;
    if (++startup_failures_ < kMostStartupFailures) {
      return;
    }
    const auto ready = static_cast<std::size_t>(std::count_if(
        workers_.begin(), workers_.end(), [](const Worker& worker) {
          return worker.trained;
        }));
    const std::string what = fmt::format(
        "{} workers in a row exited before they trained anything, the last "
        "with {}; see '{}'",
        startup_failures_,
        how,
        folder_.log().string());
    if (ready == 0) {
      fatal_ = "search: " + what;
      return;
    }
    most_workers_ = ready;
    display_.log(
        fmt::format(
            "{}: {}; going on with {} worker{}",
            config_.name,
            what,
            ready,
            ready == 1 ? "" : "s"),
        true);
  }

  // Ends workers that hang where nothing takes long, and those that train on
  // after their lease was over, for as long as it was: they are stopped, or
  // would have noticed.
  void kill_overdue() {
    for (Worker& worker : workers_) {
      const bool waiting = stopping_ ||
                           worker.state == Worker::State::kPreparing ||
                           worker.state == Worker::State::kAssigned;
      if (waiting && seconds_since(worker.since) > options_.patience) {
        worker.overdue = true;
        worker.child.kill();
      }
      if (worker.state != Worker::State::kTraining || holds_trial(worker)) {
        worker.held = Clock::now();
      } else if (seconds_since(worker.held) > config_.lease) {
        display_.log(
            fmt::format(
                "{}: its worker said nothing for {:g} s and is ended",
                label(trial_of(worker.progress.trial)),
                2 * config_.lease),
            true);
        worker.child.kill();
      }
    }
  }

  const Trial& trial_of(const std::string& id) const {
    return ledger_->trials()[ledger_->place(id).value()];
  }

  bool holds_trial(const Worker& worker) const {
    const Trial& trial = trial_of(worker.progress.trial);
    return trial.status == Status::kRunning &&
           trial.worker == worker.child.name();
  }

  // A trial that a live process of another search has is not ours to train.
  void watch_others() {
    const bool busy =
        stopping_ || shared_ || ledger_->finished() || ledger_->queued() > 0 ||
        std::any_of(workers_.begin(), workers_.end(), [](const Worker& worker) {
          return worker.state != Worker::State::kIdle;
        });
    if (busy) {
      blocked_since_.reset();
      return;
    }
    if (!blocked_since_) {
      blocked_since_ = Clock::now();
    }
    if (seconds_since(*blocked_since_) < options_.patience) {
      return;
    }
    for (const Trial& trial : ledger_->trials()) {
      if (trial.status == Status::kRunning) {
        fatal_ = fmt::format(
            "search: {} is being trained by the process {} of another search; "
            "end that first",
            label(trial),
            trial.worker);
      }
    }
  }

  void show(bool now = false) {
    if (!now && !display_.due()) {
      return;
    }
    std::vector<WorkerProgress> progress;
    for (const Worker& worker : workers_) {
      if (worker.state == Worker::State::kTraining) {
        progress.push_back(worker.progress);
      }
    }
    Snapshot snapshot = take_snapshot(config_, proposals_, *ledger_, progress);
    snapshot.elapsed = seconds_since(started_);
    display_.show(snapshot);
  }

  RunResult result() const {
    RunResult result;
    result.interrupted = !ledger_->finished();
    result.total = static_cast<int>(proposals_.size());
    result.seconds = seconds_since(started_);
    result.belief = ledger_->belief();
    for (const Trial& trial : ledger_->trials()) {
      result.done += trial.status == Status::kDone ? 1 : 0;
      result.failed += is_bad(trial) ? 1 : 0;
      result.pruned += trial.status == Status::kPruned ? 1 : 0;
      result.begun += trial.rung > 0 || trial.flops > 0 ? 1 : 0;
    }
    return result;
  }

  const SearchConfig& config_;
  const std::vector<Proposal>& proposals_;
  const RunOptions& options_;
  Folder folder_;
  int threads_;                      // of a process
  std::vector<std::string> groups_;  // of devices
  std::size_t most_workers_;
  Display display_;
  Clock::time_point started_ = Clock::now();
  double seconds_before_ = 0;  // of earlier starts
  base::Json hardware_;
  train::MachineLoad load_;
  Clock::time_point load_mark_ = Clock::now();
  double load_before_ = 0;   // share of the CPUs, in seconds_before_
  double load_seconds_ = 0;  // measured
  double load_sum_ = 0;      // share times seconds
  bool nothing_to_do_ = false;
  bool shared_ = false;  // the store, with other machines
  std::optional<base::FolderLock> lock_;
  std::optional<Ledger> ledger_;
  std::vector<Worker> workers_;
  std::map<std::string, int> exits_;  // of workers, by their trial
  int startup_failures_ = 0;          // in a row
  int refusals_ = 0;                  // in a row
  std::optional<Clock::time_point> blocked_since_;
  bool stopping_ = false;
  std::string fatal_;
};

}  // namespace

RunResult run(
    const SearchConfig& config,
    const std::vector<Proposal>& proposals,
    const RunOptions& options) {
  // Writing to a worker that has just died must not end the search.
  ::signal(SIGPIPE, SIG_IGN);
  return Runner(config, proposals, options).run();
}

}  // namespace einforge::search
