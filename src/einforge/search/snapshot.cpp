#include "einforge/search/snapshot.h"

#include <algorithm>
#include <map>
#include <optional>

#include "einforge/search/candidate.h"
#include "einforge/search/estimate.h"
#include "einforge/search/objective.h"
#include "einforge/search/scheduler.h"

namespace einforge::search {
namespace {

using store::Status;
using store::Trial;

void add_best(std::map<std::string, Snapshot::Best>& best, const Trial& trial) {
  const auto [found, added] = best.try_emplace(
      trial.structure,
      Snapshot::Best{trial.structure, trial.final_loss, trial.model});
  if (!added && trial.final_loss < found->second.loss) {
    found->second = {trial.structure, trial.final_loss, trial.model};
  }
}

// `worker` is null where nobody trains the trial now.
TrialCost cost_of(
    const SearchConfig& config,
    const Proposal& proposal,
    const Trial& trial,
    const WorkerProgress* worker) {
  TrialCost cost;
  cost.kind = kind_of(proposal);
  cost.flops_done = trial.flops;
  cost.seconds = trial.seconds;
  const int rungs = static_cast<int>(rung_count(config.scheduler));
  const int eta = static_cast<int>(config.scheduler.eta);
  const double per_step =
      proposal.flops / static_cast<double>(proposal.config.steps);
  // trial.flops is as of the last end of a rung or interruption.
  double spent = trial.flops;
  if (worker != nullptr && worker->first_step >= 0) {
    spent = std::max(spent, per_step * static_cast<double>(worker->step));
    if (worker->step > worker->first_step) {
      // The speed of now, by the wall clock, evaluations included.
      cost.flops_done =
          per_step * static_cast<double>(worker->step - worker->first_step);
      cost.seconds = std::chrono::duration<double>(
                         std::chrono::steady_clock::now() - worker->started)
                         .count();
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

const char* multiplier_name(Cost cost) {
  switch (cost) {
    case Cost::kSeconds:
      return "wall-clock";
    case Cost::kMemory:
      return "memory";
    case Cost::kDecodeMs:
      return "decoding";
    case Cost::kFlops:
      break;
  }
  return "compute";
}

// "best so far: btt:0.25 gpt d64 L1 lr 0.002: compute multiplier 1.62 (95%: 1.4
// to 1.87) over dense; going on may gain 2.3%"
std::string text_of(
    const SearchConfig& config,
    const Trial& trial,
    const std::string& baseline,
    const Belief& belief) {
  constexpr double kInterval = 1.96;
  const double spread = kInterval * belief.deviation;
  return fmt::format(
      "best so far: {}: {} multiplier {:.3g} (95%: {:.3g} to {:.3g}) over {}; "
      "going on may gain {:.1f}%",
      label(trial),
      multiplier_name(parse_objective(config.objective).front()),
      std::exp(belief.log_multiplier),
      std::exp(belief.log_multiplier - spread),
      std::exp(belief.log_multiplier + spread),
      baseline,
      100 * std::expm1(belief.gain));
}

}  // namespace

Snapshot take_snapshot(
    const SearchConfig& config,
    const std::vector<Proposal>& proposals,
    const Ledger& ledger,
    const std::vector<WorkerProgress>& workers) {
  Snapshot result;
  result.name = config.name;
  result.total = static_cast<int>(proposals.size());
  std::map<std::size_t, const WorkerProgress*> running;
  for (const WorkerProgress& worker : workers) {
    if (const auto place = ledger.place(worker.trial)) {
      running[*place] = &worker;
      result.running.push_back(
          {label(ledger.trials()[*place]),
           worker.step,
           worker.target,
           worker.loss});
    }
  }
  std::vector<TrialCost> costs;
  std::map<std::string, Snapshot::Best> best;
  double all = 0;
  double left = 0;
  for (std::size_t i = 0; i < proposals.size(); ++i) {
    const Trial& trial = ledger.trials()[i];
    const bool over = ledger.over(i);
    result.done += over ? 1 : 0;
    if (is_bad(trial)) {
      ++result.failed;
      continue;
    }
    const auto worker = running.find(i);
    TrialCost& cost = costs.emplace_back(cost_of(
        config,
        proposals[i],
        trial,
        worker == running.end() ? nullptr : worker->second));
    if (over) {
      cost.flops_left = 0;
    }
    all += over ? trial.flops : proposals[i].flops;
    left += cost.flops_left;
    if (trial.rung > 0 && std::isfinite(trial.final_loss)) {
      add_best(best, trial);
    }
  }
  result.share_done = all > 0 ? std::max(0.0, 1 - left / all) : 1;
  // When the model stops is its own affair.
  result.seconds_left =
      config.scheduler.kind == "model" && !ledger.finished()
          ? INFINITY
          : seconds_left(costs, static_cast<int>(config.workers));
  if (const std::optional<Belief> belief = ledger.belief()) {
    result.belief = text_of(
        config,
        ledger.trials()[belief->trial],
        baseline_of(proposals),
        *belief);
  }
  for (const auto& [structure, entry] : best) {
    result.best.push_back(entry);
  }
  std::stable_sort(
      result.best.begin(), result.best.end(), [](const auto& a, const auto& b) {
        return a.loss < b.loss;
      });
  return result;
}

}  // namespace einforge::search
