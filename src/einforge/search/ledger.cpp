#include "einforge/search/ledger.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <system_error>
#include <utility>

#include "einforge/base/error.h"
#include "einforge/data/metadata.h"
#include "einforge/search/process.h"
#include "einforge/search/scheduler.h"

namespace einforge::search {
namespace {

using store::Status;
using store::Trial;

// What trials must have learned from to be compared: the tokens themselves,
// wherever they lie. Null for tasks that make their own data.
base::Json data_identity(const train::TrainConfig& config) {
  if (config.model.kind != "gpt") {
    return nullptr;
  }
  const data::Metadata metadata = data::read_metadata(config.data.path);
  return {
      {"tokens", metadata.tokens},
      {"train", metadata.train.hash},
      {"validation", metadata.validation.hash}};
}

base::Json scheduler_identity(const SchedulerConfig& config) {
  const std::int64_t rungs = rung_count(config);
  return {{"rungs", rungs}, {"eta", rungs > 1 ? config.eta : 0}};
}

}  // namespace

bool is_bad(const Trial& trial) {
  return trial.status == Status::kFailed || trial.status == Status::kDiverged;
}

std::string label(const Trial& trial) {
  return fmt::format(
      "{} {} lr {:g}", trial.structure, trial.model, trial.learning_rate);
}

Ledger::Ledger(
    const SearchConfig& config,
    const std::vector<Proposal>& proposals,
    bool retry_failed)
    : config_(config),
      proposals_(proposals),
      folder_{config.out},
      rungs_(static_cast<int>(rung_count(config.scheduler))),
      eta_(static_cast<int>(config.scheduler.eta)),
      store_(store::Store::open(folder_.store())) {
  check_same("data", data_identity(config.train));
  check_same("scheduler", scheduler_identity(config.scheduler));
  add_proposals(retry_failed);
  reclaim();
  refresh();
}

// Refuses to mix trials that cannot be compared.
void Ledger::check_same(const char* key, const base::Json& value) {
  const base::Json metadata = store_.metadata();
  const auto found = metadata.find(key);
  if (found == metadata.end()) {
    store_.set_metadata(key, value);
    return;
  }
  base::check(
      *found == value,
      "search: '{}' holds a search with another {} ({}; now {}); give a new "
      "folder with --out",
      config_.out,
      key,
      found->dump(),
      value.dump());
}

void Ledger::add_proposals(bool retry_failed) {
  std::map<std::string, Trial> known;
  for (Trial& trial : store_.trials()) {
    known.emplace(trial.id, std::move(trial));
  }
  for (std::size_t i = 0; i < proposals_.size(); ++i) {
    const Trial& proposed = proposals_[i].trial;
    places_[proposed.id] = i;
    const auto found = known.find(proposed.id);
    if (found == known.end()) {
      store_.add(proposed);
      if (proposed.status == Status::kFailed) {
        store_.update(proposed);
      }
    } else if (
        retry_failed && is_bad(found->second) &&
        proposed.status != Status::kFailed) {
      Trial& trial = found->second;
      // Its checkpoints may be what made it fail.
      std::error_code ignored;
      std::filesystem::remove_all(folder_.trial(trial.id), ignored);
      trial.status = Status::kQueued;
      trial.reason.clear();
      store_.update(trial);
    }
  }
  for (auto& [id, trial] : known) {
    if (!places_.contains(id) && trial.status == Status::kQueued) {
      trial.status = Status::kPruned;
      trial.reason = "no longer in the space that is searched";
      store_.update(trial);
    }
  }
}

bool Ledger::reclaim() {
  return store_.reclaim(process_alive) > 0;
}

void Ledger::refresh() {
  trials_.assign(proposals_.size(), Trial{});
  for (Trial& trial : store_.trials()) {
    const auto place = places_.find(trial.id);
    if (place != places_.end()) {
      trials_[place->second] = std::move(trial);
    }
  }
}

const std::vector<double>& Ledger::rung_losses(std::size_t place) {
  const Trial& trial = trials_[place];
  std::vector<double>& losses = rung_losses_[trial.id];
  if (rungs_ == 1 || static_cast<int>(losses.size()) >= trial.rung) {
    return losses;
  }
  losses.clear();
  const std::vector<store::CurvePoint> curve = store_.curve(trial.id);
  const train::TrainConfig& config = proposals_[place].config;
  for (int rung = 0; rung < trial.rung; ++rung) {
    const std::int64_t step =
        rung_steps(config.steps, config.eval_every, rung, rungs_, eta_);
    const auto point = std::find_if(
        curve.begin(), curve.end(), [step](const store::CurvePoint& candidate) {
          return candidate.step == step;
        });
    losses.push_back(point == curve.end() ? NAN : point->val_loss);
  }
  return losses;
}

void Ledger::schedule() {
  std::vector<TrialState> states;
  for (std::size_t i = 0; i < trials_.size(); ++i) {
    const Trial& trial = trials_[i];
    states.push_back(
        {trial.id,
         proposals_[i].group,
         trial.status,
         trial.rung,
         rung_losses(i)});
  }
  const Plan next = plan(states, rungs_, eta_);
  for (const std::string& id : next.queue) {
    Trial& trial = trials_[places_.at(id)];
    trial.status = Status::kQueued;
    trial.reason.clear();
    store_.update(trial);
  }
  dropped_.clear();
  for (const Plan::Dropped& dropped : next.dropped) {
    dropped_.insert(dropped.id);
    Trial& trial = trials_[places_.at(dropped.id)];
    if (trial.reason != dropped.reason) {
      trial.reason = dropped.reason;
      store_.update(trial);
    }
  }
  finished_ = next.finished;
}

int Ledger::queued() const {
  return static_cast<int>(
      std::count_if(trials_.begin(), trials_.end(), [](const Trial& trial) {
        return trial.status == Status::kQueued;
      }));
}

bool Ledger::over(std::size_t place) const {
  const Trial& trial = trials_[place];
  return trial.status == Status::kDone || is_bad(trial) ||
         dropped_.contains(trial.id);
}

}  // namespace einforge::search
