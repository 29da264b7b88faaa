#include "einforge/search/measuring.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "einforge/base/error.h"
#include "einforge/base/files.h"
#include "einforge/search/decode.h"
#include "einforge/search/hardware.h"
#include "einforge/search/ledger.h"
#include "einforge/search/speed.h"
#include "einforge/train/device.h"

namespace einforge::search {
namespace {

// Where compute is time the scheduler goes by the speed of each kind.
bool wants_speeds(const SearchConfig& config, Use use) {
  return use == Use::kTrain && config.scheduler.kind == "model" &&
         std::ranges::count(parse_objective(config.objective), Cost::kSeconds) >
             0;
}

// The first proposal of each kind that can be built.
std::map<std::string, const Proposal*> kinds_of(
    const std::vector<Proposal>& proposals) {
  std::map<std::string, const Proposal*> kinds;
  for (const Proposal& proposal : proposals) {
    if (proposal.trial.status != store::Status::kFailed) {
      kinds.emplace(kind_of(proposal), &proposal);
    }
  }
  return kinds;
}

void measure_models(
    const SearchConfig& config,
    const std::vector<Proposal>& proposals,
    Known& known,
    Use use,
    const OnMeasured& on_measured) {
  const auto kinds = kinds_of(proposals);
  const bool memory = weighs(config, Cost::kMemory);
  // The measured step is that of one process.
  const bool on_gpu = memory && use == Use::kTrain &&
                      config.processes_per_trial == 1 &&
                      train::resolve_device(config.train.device).is_cuda();
  std::vector<Proposal> unknown;
  for (const auto& [kind, proposal] : kinds) {
    if ((on_gpu && std::isnan(known.costs[kind].memory)) ||
        (wants_speeds(config, use) && !known.speeds.contains(kind))) {
      unknown.push_back(*proposal);
    }
  }
  constexpr int kMostKinds = 200;
  std::map<std::string, Measured> measured;
  if (!unknown.empty()) {
    const base::TemporaryFolder scratch;
    measured = measure_speeds(
        unknown,
        threads_per_worker(config),
        scratch.path() / "trial",
        kMostKinds,
        [&](int done, int all) { on_measured("measuring speeds", done, all); });
  }
  for (const auto& [kind, found] : measured) {
    known.speeds.emplace(kind, found.speed);
  }
  if (!memory) {
    return;
  }
  std::vector<double> ratios;  // measured / estimated
  for (const auto& [kind, found] : measured) {
    double& bytes = known.costs[kind].memory;
    if (std::isnan(bytes) && std::isfinite(found.memory)) {
      bytes = found.memory;
      ratios.push_back(
          bytes /
          estimated_memory(*kinds.at(kind), config.processes_per_trial));
    }
  }
  std::ranges::sort(ratios);
  const double ratio = ratios.empty() ? 1 : ratios[ratios.size() / 2];
  for (const auto& [kind, proposal] : kinds) {
    double& bytes = known.costs[kind].memory;
    if (std::isnan(bytes)) {
      bytes = ratio * estimated_memory(*proposal, config.processes_per_trial);
    }
  }
}

void measure_layers(
    const SearchConfig& config,
    const std::vector<Proposal>& proposals,
    Known& known,
    const OnMeasured& on_measured) {
  const auto kinds = kinds_of(proposals);
  std::map<std::string, DecodeLayer> unknown;
  for (const auto& [kind, proposal] : kinds) {
    if (std::isnan(known.costs[kind].decode_ms)) {
      for (DecodeLayer& part : decode_layers(*proposal)) {
        if (!known.layers.contains(part.key)) {
          std::string key = part.key;
          unknown.emplace(std::move(key), std::move(part));
        }
      }
    }
  }
  std::vector<DecodeLayer> layers;
  for (auto& [key, part] : unknown) {
    layers.push_back(std::move(part));
  }
  known.layers.merge(measure_decode(
      layers, config.train, threads_per_worker(config), [&](int done, int all) {
        on_measured("timing one token", done, all);
      }));
  for (const auto& [kind, proposal] : kinds) {
    double& time = known.costs[kind].decode_ms;
    time =
        std::isnan(time) ? decode_milliseconds(*proposal, known.layers) : time;
  }
}

}  // namespace

bool measures(const SearchConfig& config, Use use) {
  return wants_speeds(config, use) || weighs(config, Cost::kMemory) ||
         weighs(config, Cost::kDecodeMs);
}

Known measure(
    const SearchConfig& config,
    const std::vector<Proposal>& proposals,
    Known known,
    Use use,
    const OnMeasured& on_measured) {
  if (wants_speeds(config, use) || weighs(config, Cost::kMemory)) {
    measure_models(config, proposals, known, use, on_measured);
  }
  if (weighs(config, Cost::kDecodeMs)) {
    measure_layers(config, proposals, known, on_measured);
  }
  return known;
}

Known measure_in(
    store::Store& store,
    const SearchConfig& config,
    const std::vector<Proposal>& proposals,
    Use use,
    const OnMeasured& on_measured) {
  Known known = {
      Ledger::speeds(store), read_layer_times(store), read_costs(store)};
  if (use == Use::kJoin) {
    base::check(
        config.constraints.empty() || !known.costs.empty(),
        "--join: expected a search that has measured its trials; try again "
        "when it has");
    return known;
  }
  known = measure(config, proposals, std::move(known), use, on_measured);
  Ledger::set_speeds(store, known.speeds);
  write_layer_times(store, known.layers);
  write_costs(store, known.costs);
  return known;
}

}  // namespace einforge::search
