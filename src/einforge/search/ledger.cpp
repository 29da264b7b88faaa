#include "einforge/search/ledger.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <system_error>
#include <utility>

#include "einforge/base/error.h"
#include "einforge/base/random.h"
#include "einforge/base/text.h"
#include "einforge/data/metadata.h"
#include "einforge/search/candidate.h"
#include "einforge/search/costs.h"
#include "einforge/search/identity.h"
#include "einforge/search/model_policy.h"
#include "einforge/search/process.h"

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

// What decides how far a trial goes. Grid and random train all of theirs to the
// end and may share a folder.
base::Json scheduler_identity(
    const SchedulerConfig& config, const std::string& objective) {
  const std::int64_t rungs = rung_count(config);
  if (rungs == 1) {
    return {{"rungs", 1}, {"eta", 0}};
  }
  base::Json identity = {
      {"rungs", rungs}, {"eta", config.eta}, {"within", config.within}};
  if (is_asynchronous(config)) {
    identity["kind"] = config.kind;
  }
  if (config.kind == "model") {
    std::vector<std::string> names;
    for (const Cost cost : parse_objective(objective)) {
      names.emplace_back(to_string(cost));
    }
    identity["objective"] = fmt::format("{}", fmt::join(names, ","));
  }
  return identity;
}

constexpr const char* kSpeeds = "speeds";

// What differs, in words: "rungs 3, eta 2; now rungs 1, eta 0".
std::string differences(const base::Json& before, const base::Json& now) {
  const auto text = [](const base::Json& json, const base::Json& other) {
    std::string result;
    for (const auto& item : json.items()) {
      if (other.is_object() &&
          other.value(item.key(), base::Json()) == item.value()) {
        continue;
      }
      constexpr std::size_t kLongest = 12;  // of a hash
      const std::string value = item.value().is_string()
                                    ? item.value().get<std::string>()
                                    : item.value().dump();
      result += fmt::format(
          "{}{} {}",
          result.empty() ? "" : ", ",
          item.key(),
          base::shortened(value, kLongest));
    }
    return result.empty() ? "none" : result;
  };
  return fmt::format("{}; now {}", text(before, now), text(now, before));
}

// A lease is over at its end. Where the store is a file everybody is on this
// machine, and who is dead is not waited for.
bool claim_is_over(const store::Claim& claim, bool shared) {
  const bool has_lease = !std::isnan(claim.seconds_left);
  return (has_lease && claim.seconds_left < 0) ||
         (!(shared && has_lease) && !process_alive(claim.worker));
}

}  // namespace

bool got_further(const Trial& a, const Trial& b) {
  const auto rank = [](const Trial& trial) {
    return std::pair(trial.status == Status::kDone, trial.rung);
  };
  return rank(a) > rank(b);
}

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
    bool retry_failed,
    std::vector<int> targets)
    : config_(config),
      proposals_(proposals),
      folder_(folder_of(config)),
      rungs_(static_cast<int>(rung_count(config.scheduler))),
      eta_(static_cast<int>(config.scheduler.eta)),
      targets_(std::move(targets)),
      store_(store::Store::open(folder_.store())) {
  check_same("data", data_identity(config.train));
  check_same(
      "scheduler", scheduler_identity(config.scheduler, config.objective));
  // Before anything is decided from what trials are: one that was running when
  // the search was killed may have left the space.
  reclaim_claims();
  add_proposals(retry_failed);
  make_groups();
}

// Refuses to mix trials that cannot be compared.
void Ledger::check_same(const char* key, const base::Json& value) {
  base::Json there = store_.set_metadata_once(key, value);
  if (value.is_object() && value.contains("within") && there.is_object() &&
      !there.contains("within")) {
    // An earlier einforge noted it in the configuration alone.
    there["within"] = store_.metadata().value(
        "/search/scheduler/within"_json_pointer, config_.scheduler.within);
  }
  base::check(
      there == value,
      "search: '{}' holds a search with another {} ({}); give a new folder "
      "with --out",
      config_.out,
      key,
      differences(there, value));
}

void Ledger::add_proposals(bool retry_failed) {
  std::map<std::string, std::size_t> by_id;
  for (std::size_t i = 0; i < proposals_.size(); ++i) {
    by_id.emplace(proposals_[i].trial.id, i);
  }
  trials_.assign(proposals_.size(), Trial{});
  std::vector<Trial> updates;
  for (Trial& trial : store_.trials()) {
    auto found = by_id.find(trial.id);
    if (found == by_id.end()) {
      found = by_id.find(trial_id(trial));
    }
    if (found != by_id.end()) {
      Trial& known = trials_[found->second];
      if (known.id.empty() || got_further(trial, known)) {
        std::swap(known, trial);
      }
    }
    if (!trial.id.empty() && trial.status == Status::kQueued) {
      trial.status = Status::kPruned;
      trial.reason = "no longer in the space that is searched";
      updates.push_back(trial);
    }
  }
  std::vector<Trial> added;
  const bool later = is_asynchronous(config_.scheduler) && targets_.empty();
  for (std::size_t i = 0; i < proposals_.size(); ++i) {
    Trial& trial = trials_[i];
    const Trial& proposed = proposals_[i].trial;
    if (trial.id.empty()) {
      trial = proposed;
      if (later && proposed.status != Status::kFailed) {
        trial.status = Status::kPruned;
        unstarted_.insert(i);
      } else {
        added.push_back(proposed);
      }
    } else if (
        retry_failed && is_bad(trial) && proposed.status != Status::kFailed) {
      // Its checkpoints may be what made it fail.
      std::error_code ignored;
      std::filesystem::remove_all(folder_.trial(trial.id), ignored);
      trial.status = Status::kQueued;
      trial.reason.clear();
      updates.push_back(trial);
    }
    places_[trial.id] = i;
  }
  store_.add(added);
  store_.update(updates);
}

void Ledger::make_groups() {
  members_.resize(trials_.size());
  std::map<std::string, std::size_t> names;
  for (std::size_t place = 0; place < trials_.size(); ++place) {
    std::size_t index = groups_.size();
    // With one rung, and where others have decided, nobody competes.
    if (rungs_ > 1 && targets_.empty()) {
      index = names.emplace(proposals_[place].group, index).first->second;
    }
    if (index == groups_.size()) {
      groups_.emplace_back();
    }
    Group& group = groups_[index];
    members_[place] = {index, group.places.size()};
    group.places.push_back(place);
    group.states.push_back(
        {.status = Status::kPruned, .rung_losses = {}, .rung_seconds = {}});
    note(place);
  }
  unfinished_groups_ = groups_.size();
  if (is_asynchronous(config_.scheduler) && targets_.empty()) {
    make_schedulers();
  }
  Changes changes;
  for (Group& group : groups_) {
    schedule(group, changes);
  }
  write(changes);
}

void Ledger::make_schedulers() {
  // Noted when the search begins, so that another number of workers later
  // changes no decision.
  std::int64_t lookahead = config_.scheduler.lookahead;
  if (lookahead == 0) {
    lookahead = store_.set_metadata_once("lookahead", config_.workers)
                    .get<std::int64_t>();
  }
  for (Group& group : groups_) {
    // In an order that has nothing to do with cost; without those that cannot
    // be built.
    std::vector<std::size_t> order;
    for (std::size_t i = 0; i < group.places.size(); ++i) {
      if (proposals_[group.places[i]].trial.status != Status::kFailed) {
        order.push_back(i);
      }
    }
    base::Random random(config_.scheduler.seed);
    for (std::size_t left = order.size(); left > 1; --left) {
      std::swap(order[left - 1], order[random.below(left)]);
    }
    std::unique_ptr<Policy> policy;
    if (config_.scheduler.kind == "asha") {
      policy = asha_policy(std::move(order), rungs_, eta_);
    } else {
      policy = model_policy(
          candidates_of(
              config_, proposals_, speeds(store_), read_costs(store_)),
          rungs_,
          {std::move(order),
           parse_objective(config_.objective),
           config_.scheduler.stop_gain});
    }
    group.asynchronous = std::make_unique<Asynchronous>(
        std::move(policy), rungs_, static_cast<std::size_t>(lookahead));
  }
}

std::optional<std::size_t> Ledger::place(const std::string& id) const {
  const auto found = places_.find(id);
  return found == places_.end() ? std::nullopt : std::optional(found->second);
}

std::optional<std::string> Ledger::take() {
  if (queue_.empty()) {
    return std::nullopt;
  }
  return trials_[queue_.extract(queue_.begin()).value()].id;
}

void Ledger::reload(const std::string& id) {
  std::optional<Trial> trial = store_.find(id);
  base::check(
      trial.has_value(),
      "'{}': expected an intact store; the trial '{}' is gone",
      folder_.store(),
      id);
  const auto found = place(id);
  if (found) {
    take_over(*found, std::move(*trial));
    schedule({members_[*found].group});
  } else if (trial->status == Status::kQueued) {
    trial->status = Status::kPruned;
    trial->reason = "no longer in the space that is searched";
    store_.update(*trial);
  }
}

void Ledger::take_over(std::size_t place, Trial trial) {
  trials_[place] = std::move(trial);
  unstarted_.erase(place);
  note(place);
}

void Ledger::reload(const std::vector<std::string>& ids) {
  for (const std::string& id : ids) {
    reload(id);
  }
}

std::vector<std::string> Ledger::reclaim_claims() {
  return store_.reclaim(
      [shared = store_.is_shared()](const store::Claim& claim) {
        return claim_is_over(claim, shared);
      });
}

void Ledger::reclaim() {
  reload(reclaim_claims());
}

void Ledger::release(const std::string& worker) {
  reload(store_.reclaim(
      [&](const store::Claim& claim) { return claim.worker == worker; }));
}

void Ledger::refresh() {
  std::set<std::size_t> groups;
  for (const store::Store::State& state : store_.states()) {
    const auto found = place(state.id);
    if (!found) {
      continue;
    }
    const Trial& known = trials_[*found];
    if (known.status == state.status && known.rung == state.rung &&
        known.fence == state.fence && !unstarted_.contains(*found)) {
      continue;
    }
    if (std::optional<Trial> trial = store_.find(state.id)) {
      take_over(*found, std::move(*trial));
      groups.insert(members_[*found].group);
    }
  }
  schedule(groups);
}

void Ledger::fail(const std::string& id, const std::string& reason) {
  std::optional<Trial> trial = store_.find(id);
  if (trial) {
    trial->status = Status::kFailed;
    trial->reason = reason;
    store_.update(*trial);
    reload(id);
  }
}

void Ledger::note(std::size_t place) {
  const Trial& trial = trials_[place];
  const Member member = members_[place];
  Group& group = groups_[member.group];
  TrialState& state = group.states[member.index];
  group.on_their_way -= on_its_way(state) ? 1 : 0;
  state.status = trial.status;
  group.on_their_way += on_its_way(state) ? 1 : 0;
  state.rung = trial.rung;
  read_rungs(place, state);
  if (trial.status == Status::kQueued) {
    queue_.insert(place);
  } else {
    queue_.erase(place);
  }
}

void Ledger::read_rungs(std::size_t place, TrialState& state) {
  if (rungs_ == 1 || static_cast<int>(state.rung_losses.size()) >= state.rung) {
    return;
  }
  state.rung_losses.clear();
  state.rung_seconds.clear();
  const std::vector<store::CurvePoint> curve = store_.curve(trials_[place].id);
  for (int rung = 0; rung < state.rung; ++rung) {
    const std::int64_t step = rung_steps_of(place, rung);
    const auto point = std::find_if(
        curve.begin(), curve.end(), [step](const store::CurvePoint& candidate) {
          return candidate.step == step;
        });
    const bool known = point != curve.end();
    state.rung_losses.push_back(known ? point->val_loss : NAN);
    state.rung_seconds.push_back(known ? point->seconds : NAN);
  }
}

void Ledger::write(const Changes& changes) {
  store_.add(changes.added);
  store_.update(changes.updated);
}

void Ledger::schedule(const std::set<std::size_t>& groups) {
  Changes changes;
  for (const std::size_t index : groups) {
    Group& group = groups_[index];
    if (group.on_their_way == 0 || group.asynchronous) {
      schedule(group, changes);
    }
  }
  write(changes);
}

void Ledger::schedule(Group& group, Changes& changes) {
  const Plan next =
      !targets_.empty()
          ? plan_to(group.states.front(), targets_[group.places.front()])
      : group.asynchronous ? group.asynchronous->plan(group.states)
                           : plan(group.states, rungs_, eta_);
  for (const std::size_t index : next.queue) {
    const std::size_t place = group.places[index];
    Trial& trial = trials_[place];
    trial.status = Status::kQueued;
    trial.reason.clear();
    (unstarted_.erase(place) > 0 ? changes.added : changes.updated)
        .push_back(trial);
    dropped_.erase(place);
    note(place);
  }
  for (const Plan::Dropped& dropped : next.dropped) {
    const std::size_t place = group.places[dropped.trial];
    dropped_.insert(place);
    Trial& trial = trials_[place];
    if (trial.reason != dropped.reason && !unstarted_.contains(place)) {
      trial.reason = dropped.reason;
      changes.updated.push_back(trial);
    }
  }
  if (next.finished != group.finished) {
    group.finished = next.finished;
    unfinished_groups_ += next.finished ? -1 : 1;
  }
}

std::int64_t Ledger::rung_end(std::size_t place) const {
  return rung_steps_of(place, trials_[place].rung);
}

std::int64_t Ledger::rung_steps_of(std::size_t place, int rung) const {
  const train::TrainConfig& config = proposals_[place].config;
  return rung_steps(config.steps, config.eval_every, rung, rungs_, eta_);
}

std::map<std::string, double> Ledger::speeds(const store::Store& store) {
  std::map<std::string, double> result;
  const base::Json metadata = store.metadata();
  const auto found = metadata.find(kSpeeds);
  if (found != metadata.end() && found->is_object()) {
    for (const auto& item : found->items()) {
      if (item.value().is_number() && item.value() > 0) {
        result.emplace(item.key(), item.value());
      }
    }
  }
  return result;
}

void Ledger::set_speeds(
    store::Store& store, const std::map<std::string, double>& speeds) {
  store.set_metadata(kSpeeds, speeds);
}

std::optional<Belief> Ledger::belief() const {
  for (const Group& group : groups_) {
    if (group.asynchronous) {
      if (std::optional<Belief> belief = group.asynchronous->belief()) {
        belief->trial = group.places[belief->trial];
        return belief;
      }
    }
  }
  return std::nullopt;
}

void Ledger::note_predictions() {
  base::Json lines = base::Json::array();
  for (const Group& group : groups_) {
    if (group.asynchronous) {
      for (const Prediction& prediction : group.asynchronous->predictions()) {
        lines.push_back(
            {trials_[group.places[prediction.trial]].id,
             rung_steps_of(group.places[prediction.trial], prediction.rung),
             prediction.log_loss,
             prediction.deviation});
      }
    }
  }
  if (!lines.empty()) {
    store_.set_metadata("predictions", lines);
  }
}

bool Ledger::over(std::size_t place) const {
  const Trial& trial = trials_[place];
  return trial.status == Status::kDone || is_bad(trial) ||
         dropped_.contains(place);
}

}  // namespace einforge::search
