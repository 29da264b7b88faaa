#include "einforge/search/scheduler.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

namespace einforge::search {
namespace {

using store::Status;

bool lost(const TrialState& trial) {
  return trial.status == Status::kFailed || trial.status == Status::kDiverged;
}

bool on_its_way(const TrialState& trial) {
  return trial.status == Status::kQueued || trial.status == Status::kRunning;
}

double loss_at(const TrialState& trial, int rung) {
  const auto index = static_cast<std::size_t>(rung);
  return index < trial.rung_losses.size() ? trial.rung_losses[index] : NAN;
}

// Plans one group; returns whether it is finished.
bool plan_group(
    const std::vector<const TrialState*>& group,
    int rungs,
    int eta,
    Plan& result) {
  std::vector<const TrialState*> entrants = group;
  std::size_t places = group.size();
  for (int rung = 0; rung < rungs; ++rung) {
    std::vector<const TrialState*> passed;
    bool waiting = false;
    for (const TrialState* trial : entrants) {
      if (trial->rung > rung) {
        passed.push_back(trial);
      } else if (!lost(*trial)) {
        waiting = true;
        if (!on_its_way(*trial)) {
          result.queue.push_back(trial->id);
        }
      }
    }
    if (waiting) {
      return false;
    }
    if (rung + 1 == rungs) {
      break;
    }
    // NaN last; equal losses in the order of the trials, so that the plan is
    // the same every time.
    std::stable_sort(
        passed.begin(),
        passed.end(),
        [rung](const TrialState* a, const TrialState* b) {
          const double x = loss_at(*a, rung);
          const double y = loss_at(*b, rung);
          return std::isnan(y) ? !std::isnan(x) : x < y;
        });
    places = std::max<std::size_t>(1, places / static_cast<std::size_t>(eta));
    for (std::size_t i = places; i < passed.size(); ++i) {
      if (passed[i]->rung == rung + 1) {
        result.dropped.push_back(
            {passed[i]->id,
             fmt::format(
                 "place {} of {} at rung {} of {} (loss {:.4f}); {} went on",
                 i + 1,
                 passed.size(),
                 rung + 1,
                 rungs,
                 loss_at(*passed[i], rung),
                 places)});
      }
    }
    passed.resize(std::min(places, passed.size()));
    entrants = std::move(passed);
  }
  return true;
}

}  // namespace

Plan plan(const std::vector<TrialState>& trials, int rungs, int eta) {
  std::vector<std::string> names;
  std::map<std::string, std::vector<const TrialState*>> groups;
  for (const TrialState& trial : trials) {
    auto& group = groups[trial.group];
    if (group.empty()) {
      names.push_back(trial.group);
    }
    group.push_back(&trial);
  }
  Plan result;
  result.finished = true;
  for (const std::string& name : names) {
    result.finished &= plan_group(groups[name], rungs, eta, result);
  }
  return result;
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
