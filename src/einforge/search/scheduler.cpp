#include "einforge/search/scheduler.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

namespace einforge::search {
namespace {

using store::Status;

bool lost(const TrialState& trial) {
  return trial.status == Status::kFailed || trial.status == Status::kDiverged;
}

double loss_at(const TrialState& trial, int rung) {
  const auto index = static_cast<std::size_t>(rung);
  return index < trial.rung_losses.size() ? trial.rung_losses[index] : NAN;
}

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
