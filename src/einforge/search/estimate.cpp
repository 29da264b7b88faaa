#include "einforge/search/estimate.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

namespace einforge::search {

std::vector<double> seconds_left(const std::vector<TrialCost>& trials) {
  struct Work {
    double flops = 0;
    double seconds = 0;
  };
  Work all;
  std::map<std::string, Work> kinds;
  for (const TrialCost& trial : trials) {
    if (trial.flops_done > 0 && trial.seconds > 0) {
      for (Work* work : {&all, &kinds[trial.kind]}) {
        work->flops += trial.flops_done;
        work->seconds += trial.seconds;
      }
    }
  }
  std::vector<double> result;
  for (const TrialCost& trial : trials) {
    const auto kind = kinds.find(trial.kind);
    const Work& work = kind != kinds.end() ? kind->second : all;
    result.push_back(
        trial.flops_left <= 0 ? 0
        : work.flops > 0      ? trial.flops_left * work.seconds / work.flops
                              : std::numeric_limits<double>::infinity());
  }
  return result;
}

double seconds_left(const std::vector<TrialCost>& trials, int workers) {
  double sum = 0;
  double longest = 0;
  for (const double seconds : seconds_left(trials)) {
    sum += seconds;
    longest = std::max(longest, seconds);
  }
  return std::max(longest, sum / std::max(1, workers));
}

double expected_share_left(int rungs_passed, int rungs, int eta) {
  // Rung r ends at eta^(r + 1 - rungs) of the budget and one in eta passes.
  double share = 0;
  double chance = 1;
  for (int rung = rungs_passed; rung < rungs; ++rung) {
    const double end = std::pow(eta, rung + 1 - rungs);
    const double begin = rung == 0 ? 0 : std::pow(eta, rung - rungs);
    share += chance * (end - begin);
    chance /= eta;
  }
  return share;
}

}  // namespace einforge::search
