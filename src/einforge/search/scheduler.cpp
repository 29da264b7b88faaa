#include "einforge/search/scheduler.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numeric>
#include <set>
#include <utility>

namespace einforge::search {
namespace {

using store::Status;

bool lost(const TrialState& trial) {
  return trial.status == Status::kFailed || trial.status == Status::kDiverged;
}

double at(const std::vector<double>& values, int rung) {
  const auto index = static_cast<std::size_t>(rung);
  return index < values.size() ? values[index] : NAN;
}

double loss_at(const TrialState& trial, int rung) {
  return at(trial.rung_losses, rung);
}

class Asha : public Policy {
 public:
  Asha(std::vector<std::size_t> order, int rungs, int eta)
      : order_(std::move(order)),
        eta_(static_cast<std::size_t>(eta)),
        rungs_(static_cast<std::size_t>(rungs)) {}

  void reveal(std::size_t trial, int rung, double loss, double) override {
    Rung& at = rungs_[static_cast<std::size_t>(rung)];
    ++at.ended;
    if (!std::isnan(loss)) {
      at.waiting.insert({loss, trial});
    }
  }

  std::optional<std::size_t> next(std::size_t pending) override {
    for (std::size_t rung = rungs_.size() - 1; rung-- > 0;) {
      Rung& at = rungs_[rung];
      // Those that went on count among the best 1 / eta only where they are.
      if (!at.waiting.empty() && places(rung) > better(rung)) {
        return promote(at);
      }
    }
    if (started_ < order_.size()) {
      return order_[started_++];
    }
    if (pending > 0) {
      return std::nullopt;
    }
    for (std::size_t rung = 0; rung + 1 < rungs_.size(); ++rung) {
      Rung& at = rungs_[rung];
      if (at.gone.empty() && !at.waiting.empty()) {
        return promote(at);
      }
    }
    return std::nullopt;
  }

 private:
  using Result = std::pair<double, std::size_t>;  // loss and trial
  struct Rung {
    std::size_t ended = 0;  // failed ones included
    std::set<Result> waiting;
    std::set<Result> gone;
  };

  std::size_t places(std::size_t rung) const {
    return rungs_[rung].ended / eta_;
  }

  // How many of the rung that went on beat the best that waits.
  std::size_t better(std::size_t rung) const {
    const Rung& at = rungs_[rung];
    return static_cast<std::size_t>(std::distance(
        at.gone.begin(), at.gone.lower_bound(*at.waiting.begin())));
  }

  static std::size_t promote(Rung& at) {
    const Result best = at.waiting.extract(at.waiting.begin()).value();
    at.gone.insert(best);
    return best.second;
  }

  std::vector<std::size_t> order_;
  std::size_t eta_;
  std::vector<Rung> rungs_;
  std::size_t started_ = 0;
};

}  // namespace

bool on_its_way(const TrialState& trial) {
  return trial.status == Status::kQueued || trial.status == Status::kRunning;
}

Plan plan(std::span<const TrialState> trials, int rungs, int eta) {
  Plan result;
  std::vector<std::size_t> entrants(trials.size());
  std::iota(entrants.begin(), entrants.end(), std::size_t{0});
  std::size_t places = trials.size();
  for (int rung = 0; rung < rungs; ++rung) {
    std::vector<std::size_t> passed;
    bool waiting = false;
    for (const std::size_t i : entrants) {
      const TrialState& trial = trials[i];
      if (trial.rung > rung) {
        passed.push_back(i);
      } else if (!lost(trial)) {
        waiting = true;
        if (!on_its_way(trial)) {
          result.queue.push_back(i);
        }
      }
    }
    if (waiting) {
      return result;
    }
    if (rung + 1 == rungs) {
      break;
    }
    // NaN last; equal losses in the order of the trials, so that the plan is
    // the same every time.
    std::stable_sort(
        passed.begin(), passed.end(), [&](std::size_t a, std::size_t b) {
          const double x = loss_at(trials[a], rung);
          const double y = loss_at(trials[b], rung);
          return std::isnan(y) ? !std::isnan(x) : x < y;
        });
    places = std::max<std::size_t>(1, places / static_cast<std::size_t>(eta));
    for (std::size_t place = places; place < passed.size(); ++place) {
      const TrialState& trial = trials[passed[place]];
      if (trial.rung == rung + 1) {
        result.dropped.push_back(
            {passed[place],
             fmt::format(
                 "place {} of {} at rung {} of {} (loss {:.4f}); {} went on",
                 place + 1,
                 passed.size(),
                 rung + 1,
                 rungs,
                 loss_at(trial, rung),
                 places)});
      }
    }
    passed.resize(std::min(places, passed.size()));
    entrants = std::move(passed);
  }
  result.finished = true;
  return result;
}

Plan plan_to(const TrialState& trial, int rungs) {
  Plan result;
  if (!lost(trial) && trial.rung < rungs) {
    if (!on_its_way(trial)) {
      result.queue.push_back(0);
    }
    return result;
  }
  result.finished = true;
  if (trial.status == Status::kPruned) {
    result.dropped.push_back({0, "trained as far as it was told to"});
  }
  return result;
}

Asynchronous::Asynchronous(
    std::unique_ptr<Policy> policy, int rungs, std::size_t lookahead)
    : policy_(std::move(policy)),
      rungs_(rungs),
      lookahead_(std::max<std::size_t>(1, lookahead)) {}

// False while the result of the next decision is unknown.
bool Asynchronous::reveal_next(std::span<const TrialState> trials) {
  const auto [index, rung] = decisions_[revealed_];
  const TrialState& trial = trials[index];
  if (trial.rung > rung) {
    policy_->reveal(
        index, rung, loss_at(trial, rung), at(trial.rung_seconds, rung));
  } else if (lost(trial)) {
    policy_->reveal(index, rung, NAN, NAN);
  } else {
    return false;
  }
  ++revealed_;
  return true;
}

Plan Asynchronous::plan(std::span<const TrialState> trials) {
  decided_.resize(trials.size());
  while (!finished_) {
    if (decisions_.size() - revealed_ >= lookahead_) {
      if (!reveal_next(trials)) {
        break;
      }
      continue;
    }
    const std::size_t pending = decisions_.size() - revealed_;
    if (waited_at_ != revealed_) {
      if (const std::optional<std::size_t> next = policy_->next(pending)) {
        decisions_.push_back({*next, decided_[*next]++});
        continue;
      }
      waited_at_ = revealed_;
    }
    if (pending == 0) {
      finished_ = true;
    } else if (!reveal_next(trials)) {
      break;
    }
  }
  Plan result;
  for (std::size_t i = revealed_; i < decisions_.size(); ++i) {
    const auto [index, rung] = decisions_[i];
    const TrialState& trial = trials[index];
    if (trial.rung <= rung && !lost(trial) && !on_its_way(trial)) {
      result.queue.push_back(index);
    }
  }
  result.finished = finished_;
  if (!finished_) {
    return result;
  }
  for (std::size_t i = 0; i < trials.size(); ++i) {
    const TrialState& trial = trials[i];
    if (trial.rung < rungs_ && !lost(trial)) {
      result.dropped.push_back(
          {i,
           trial.rung == 0 ? "not started"
                           : fmt::format(
                                 "did not go on after rung {} of {} (loss "
                                 "{:.4f})",
                                 trial.rung,
                                 rungs_,
                                 loss_at(trial, trial.rung - 1))});
    }
  }
  return result;
}

std::unique_ptr<Policy> asha_policy(
    std::vector<std::size_t> order, int rungs, int eta) {
  return std::make_unique<Asha>(std::move(order), rungs, eta);
}

std::int64_t rung_steps(
    std::int64_t steps, std::int64_t eval_every, int rung, int rungs, int eta) {
  double share = 1;
  for (int i = rung + 1; i < rungs; ++i) {
    share /= eta;
  }
  if (share == 1) {
    return steps;
  }
  const double evaluations = std::ceil(
      static_cast<double>(steps) * share / static_cast<double>(eval_every) -
      1e-9);
  return std::min(
      steps,
      std::max<std::int64_t>(1, static_cast<std::int64_t>(evaluations)) *
          eval_every);
}

}  // namespace einforge::search
