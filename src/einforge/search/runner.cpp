#include "einforge/search/runner.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <poll.h>
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <optional>
#include <thread>

#include "einforge/base/error.h"
#include "einforge/base/files.h"
#include "einforge/base/text.h"
#include "einforge/search/estimate.h"
#include "einforge/search/folder.h"
#include "einforge/search/hardware.h"
#include "einforge/search/ledger.h"
#include "einforge/search/process.h"
#include "einforge/search/scheduler.h"

namespace einforge::search {
namespace {

using store::Status;
using store::Trial;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

struct Worker {
  explicit Worker(const Child::Options& options) : child(options) {}

  Child child;
  bool idle = false;
  bool ran_any = false;
  std::string trial;  // what it runs; empty: nothing
  std::int64_t step = 0;
  std::int64_t target = 0;
  double loss = NAN;
  // Of the first step reported, to know its speed.
  std::int64_t first_step = -1;
  Clock::time_point started;
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
        folder_{config.out},
        threads_(threads_per_worker(config.workers)),
        display_(options.quiet) {
    base::make_directory(folder_.root / "trials");
    lock_.emplace(folder_.root);
    ledger_.emplace(config, proposals, options.retry_failed);
    describe();
  }

  RunResult run() {
    announce();
    ledger_->schedule();
    note_origin();
    auto last_reclaim = Clock::now();
    while (!(workers_.empty() && (ledger_->finished() || stopping_))) {
      if (!stopping_) {
        employ();
      }
      wait_for_events();
      bool changed = false;
      for (Worker& worker : workers_) {
        changed |= read_events(worker);
      }
      changed |= reap();
      // Workers of a search that was killed a moment ago may still have been
      // dying when this one started.
      if (seconds_since(last_reclaim) > 1) {
        last_reclaim = Clock::now();
        changed |= ledger_->reclaim();
      }
      if (changed) {
        ledger_->refresh();
        if (!stopping_) {
          ledger_->schedule();
        }
      }
      if (!stopping_ && options_.should_stop && options_.should_stop()) {
        display_.log("stopping: workers write their checkpoints");
        stop();
      }
      if (!stopping_ && !fatal_.empty()) {
        stop();
      }
      display_.show(snapshot());
    }
    display_.show(snapshot(), true);
    if (!fatal_.empty()) {
      throw base::IoError(fatal_);
    }
    return result();
  }

 private:
  void describe() {
    store::Store& store = ledger_->store();
    const base::Json config = base::to_json(config_);
    store.set_metadata("name", config_.name);
    store.set_metadata("search", config);
    base::write_file_atomically(folder_.config(), config.dump(2) + "\n");
  }

  // What the trials of this start come from. A search that is over keeps what
  // it has: starting it again trains nothing.
  void note_origin() {
    store::Store& store = ledger_->store();
    if (ledger_->finished() && store.metadata().contains("hardware")) {
      return;
    }
    store.set_metadata("command", options_.command);
    store.set_metadata("hardware", describe_hardware(config_.workers));
    store.set_metadata("versions", options_.versions);
    store.set_metadata(
        "seeds", {{"trials", config_.seeds}, {"draw", config_.scheduler.seed}});
  }

  // What a user should know before a long wait, a line each.
  void announce() {
    std::vector<std::string> broken;
    int left = 0;
    for (std::size_t i = 0; i < proposals_.size(); ++i) {
      const Trial& trial = proposals_[i].trial;
      left += ledger_->over(i) ? 0 : 1;
      if (trial.status == Status::kFailed) {
        broken.push_back(fmt::format(
            "{} {} ({})", trial.structure, trial.model, trial.reason));
      }
    }
    if (!broken.empty()) {
      display_.log(
          fmt::format(
              "{}: {} of {} trials cannot be built and count as failed: {}",
              config_.name,
              broken.size(),
              proposals_.size(),
              fmt::join(broken, "; ")),
          true);
    }
    display_.log(fmt::format(
        "{}: {} trials, {} to run, {} worker{} of {} thread{}, in {}",
        config_.name,
        proposals_.size(),
        left,
        config_.workers,
        config_.workers == 1 ? "" : "s",
        threads_,
        threads_ == 1 ? "" : "s",
        config_.out));
  }

  // Sees that somebody takes what is queued.
  void employ() {
    if (ledger_->finished()) {
      for (Worker& worker : workers_) {
        worker.child.ask_to_stop();
      }
      return;
    }
    int queued = ledger_->queued();
    for (Worker& worker : workers_) {
      // One that is neither idle nor training is about to look by itself.
      if (queued > 0 && worker.trial.empty()) {
        --queued;
        if (worker.idle) {
          worker.idle = false;
          worker.child.send("go");
        }
      }
    }
    while (queued-- > 0 &&
           workers_.size() < static_cast<std::size_t>(config_.workers)) {
      start_worker();
    }
  }

  void start_worker() {
    const std::string threads = std::to_string(threads_);
    Child::Options options;
    options.command = options_.worker_command;
    options.command.push_back(folder_.root.string());
    options.command.push_back(threads);
    options.log = folder_.log();
    // Read when the libraries load, before the worker can say so itself.
    options.environment = {
        {"OMP_NUM_THREADS", threads}, {"MKL_NUM_THREADS", threads}};
    workers_.emplace_back(options);
  }

  void stop() {
    stopping_ = true;
    for (Worker& worker : workers_) {
      worker.child.ask_to_stop();
    }
  }

  void wait_for_events() {
    std::vector<pollfd> files;
    for (const Worker& worker : workers_) {
      files.push_back({worker.child.event_file(), POLLIN, 0});
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

  // Whether a trial's record may have changed.
  bool read_events(Worker& worker) {
    bool changed = false;
    for (const base::Json& event : worker.child.events()) {
      const std::string kind = event.value("event", "");
      if (kind == "start") {
        worker.trial = event.value("trial", "");
        worker.target = event.value("target", std::int64_t{0});
        worker.step = 0;
        worker.first_step = -1;
        worker.loss = NAN;
        worker.idle = false;
        worker.ran_any = true;
        changed = true;
      } else if (kind == "step") {
        worker.step = event.value("step", std::int64_t{0});
        worker.loss = event.value("loss", std::nan(""));
        if (worker.first_step < 0) {
          worker.first_step = worker.step;
          worker.started = Clock::now();
        }
      } else if (kind == "end") {
        log_end(worker.trial);
        worker.trial.clear();
        changed = true;
      } else if (kind == "idle") {
        worker.idle = true;
        changed = true;
      } else if (kind == "fatal" && fatal_.empty()) {
        fatal_ = event.value("message", "a worker failed");
      }
    }
    return changed;
  }

  void log_end(const std::string& id) {
    const std::optional<Trial> trial = ledger_->store().find(id);
    if (!trial || trial->status == Status::kQueued) {
      return;
    }
    if (is_bad(*trial)) {
      log_bad(*trial);
      return;
    }
    display_.log(fmt::format(
        "{}: loss {:.4f} in {}",
        label(*trial),
        trial->final_loss,
        base::human_duration(trial->seconds)));
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

  // Removes workers that have ended and deals with those that were killed.
  bool reap() {
    bool changed = false;
    for (auto worker = workers_.begin(); worker != workers_.end();) {
      std::string how;
      bool clean = false;
      if (!worker->child.exited(how, clean)) {
        ++worker;
        continue;
      }
      changed = true;
      read_events(*worker);  // its last words
      if (!clean && !stopping_ && fatal_.empty()) {
        mourn(*worker, how);
      }
      worker = workers_.erase(worker);
    }
    if (changed) {
      ledger_->reclaim();
    }
    return changed;
  }

  void mourn(const Worker& worker, const std::string& how) {
    store::Store& store = ledger_->store();
    bool had_trial = worker.ran_any;
    for (Trial& trial : store.trials()) {
      if (trial.status != Status::kRunning ||
          trial.worker != worker.child.name()) {
        continue;
      }
      had_trial = true;
      const int deaths = ++deaths_[trial.id];
      if (deaths < config_.attempts) {
        display_.log(
            fmt::format(
                "{}: its worker ended with {}; resuming it", label(trial), how),
            true);
        continue;
      }
      trial.status = Status::kFailed;
      trial.reason = fmt::format(
          "its worker ended {} times while training it, last with {}",
          deaths,
          how);
      store.update(trial);
      log_bad(trial);
    }
    fruitless_starts_ = had_trial ? 0 : fruitless_starts_ + 1;
    constexpr int kMostFruitlessStarts = 3;
    if (fruitless_starts_ >= kMostFruitlessStarts) {
      fatal_ = fmt::format(
          "search: workers end with {} before they train anything; see '{}'",
          how,
          folder_.log().string());
    }
  }

  Snapshot snapshot() const {
    Snapshot result;
    result.name = config_.name;
    result.total = static_cast<int>(proposals_.size());
    result.elapsed = seconds_since(started_);
    std::vector<TrialCost> costs;
    double all = 0;
    double left = 0;
    for (std::size_t i = 0; i < proposals_.size(); ++i) {
      const Trial& trial = ledger_->trials()[i];
      result.done += ledger_->over(i) ? 1 : 0;
      if (is_bad(trial)) {
        ++result.failed;
        continue;
      }
      const TrialCost& cost = costs.emplace_back(cost_of(i));
      all += ledger_->over(i) ? trial.flops : proposals_[i].flops;
      left += cost.flops_left;
      if (trial.rung > 0) {
        add_best(result.best, trial);
      }
    }
    result.share_done = all > 0 ? std::max(0.0, 1 - left / all) : 1;
    result.seconds_left =
        seconds_left(costs, static_cast<int>(config_.workers));
    std::sort(
        result.best.begin(),
        result.best.end(),
        [](const auto& a, const auto& b) { return a.loss < b.loss; });
    for (const Worker& worker : workers_) {
      if (!worker.trial.empty()) {
        result.running.push_back(
            {label(ledger_->trials()[ledger_->place(worker.trial)]),
             worker.step,
             worker.target,
             worker.loss});
      }
    }
    return result;
  }

  static void add_best(std::vector<Snapshot::Best>& best, const Trial& trial) {
    const auto found = std::find_if(
        best.begin(), best.end(), [&](const Snapshot::Best& entry) {
          return entry.structure == trial.structure;
        });
    if (found == best.end()) {
      best.push_back({trial.structure, trial.final_loss, trial.model});
    } else if (trial.final_loss < found->loss) {
      *found = {trial.structure, trial.final_loss, trial.model};
    }
  }

  TrialCost cost_of(std::size_t place) const {
    const Trial& trial = ledger_->trials()[place];
    const Proposal& proposal = proposals_[place];
    TrialCost cost;
    cost.kind = kind_of(proposal);
    cost.flops_done = trial.flops;
    cost.seconds = trial.seconds;
    if (ledger_->over(place)) {
      return cost;
    }
    const int rungs = static_cast<int>(rung_count(config_.scheduler));
    const int eta = static_cast<int>(config_.scheduler.eta);
    const double per_step =
        proposal.flops / static_cast<double>(proposal.config.steps);
    // trial.flops is as of the last end of a rung or interruption.
    double spent = trial.flops;
    for (const Worker& worker : workers_) {
      if (worker.trial != trial.id || worker.first_step < 0) {
        continue;
      }
      spent = std::max(spent, per_step * static_cast<double>(worker.step));
      if (worker.step > worker.first_step) {
        // The speed of now, by the wall clock, evaluations included.
        cost.flops_done =
            per_step * static_cast<double>(worker.step - worker.first_step);
        cost.seconds = seconds_since(worker.started);
      }
    }
    const double before_this_rung =
        trial.rung == 0 ? 0
                        : per_step * static_cast<double>(rung_steps(
                                         proposal.config.steps,
                                         proposal.config.eval_every,
                                         trial.rung - 1,
                                         rungs,
                                         eta));
    cost.flops_left = std::max(
        0.0,
        proposal.flops * expected_share_left(trial.rung, rungs, eta) -
            std::max(0.0, spent - before_this_rung));
    return cost;
  }

  RunResult result() const {
    RunResult result;
    result.interrupted = !ledger_->finished();
    result.total = static_cast<int>(proposals_.size());
    result.seconds = seconds_since(started_);
    for (const Trial& trial : ledger_->trials()) {
      result.done += trial.status == Status::kDone ? 1 : 0;
      result.failed += is_bad(trial) ? 1 : 0;
      result.pruned += trial.status == Status::kPruned ? 1 : 0;
    }
    return result;
  }

  const SearchConfig& config_;
  const std::vector<Proposal>& proposals_;
  const RunOptions& options_;
  Folder folder_;
  int threads_;
  Display display_;
  Clock::time_point started_ = Clock::now();
  std::optional<FolderLock> lock_;
  std::optional<Ledger> ledger_;
  std::vector<Worker> workers_;
  std::map<std::string, int> deaths_;  // workers that a trial has killed
  int fruitless_starts_ = 0;
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
