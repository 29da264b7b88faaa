#include "einforge/search/speed.h"

#include <torch/types.h>
#include <torch/utils.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <optional>
#include <system_error>

#include "einforge/ops/peak_memory.h"
#include "einforge/train/device.h"
#include "einforge/train/trainer.h"

namespace einforge::search {
namespace {

using Clock = std::chrono::steady_clock;

// None when it cannot be trained.
std::optional<Measured> measure(
    const Proposal& proposal, const std::filesystem::path& scratch) {
  // Enough to pass the allocator's first steps; no more than half a second.
  constexpr std::int64_t kMostSteps = 20;
  constexpr auto kEnough = std::chrono::milliseconds(500);
  train::TrainConfig config = proposal.config;
  const double flops_per_step =
      proposal.flops / static_cast<double>(config.steps);
  config.steps = kMostSteps;
  config.eval_every = kMostSteps;
  config.eval_batches = 1;
  config.checkpoint_every = 0;
  config.schedule.warmup_steps = 0;

  Clock::time_point first;
  Clock::time_point last;
  std::int64_t steps = 0;
  train::TrainOptions options;
  options.directory = scratch;
  options.progress = false;
  options.on_warning = [](const std::string&) {};  // this is no trial
  options.on_step = [&](std::int64_t, double) {
    last = Clock::now();
    if (steps++ == 0) {
      first = last;
    }
  };
  options.should_stop = [&] { return steps > 1 && last - first > kEnough; };
  const torch::Device device = train::resolve_device(config.device);
  ops::restart_peak_memory(device);
  try {
    train::train(config, options);
  } catch (const std::exception&) {
    steps = 0;  // the search itself will say why
  }
  std::error_code ignored;
  std::filesystem::remove_all(scratch, ignored);
  const double seconds = std::chrono::duration<double>(last - first).count();
  if (steps < 2 || seconds <= 0) {
    return std::nullopt;
  }
  return Measured{
      flops_per_step * static_cast<double>(steps - 1) / seconds,
      train::peak_memory_bytes(device)};
}

}  // namespace

std::map<std::string, Measured> measure_speeds(
    const std::vector<Proposal>& proposals,
    int threads,
    const std::filesystem::path& scratch,
    int most_kinds,
    const std::function<void(int, int)>& on_kind) {
  std::map<std::string, const Proposal*> kinds;
  for (const Proposal& proposal : proposals) {
    if (proposal.trial.status != store::Status::kFailed) {
      kinds.emplace(kind_of(proposal), &proposal);
    }
  }
  torch::set_num_threads(threads);
  const int count = static_cast<int>(kinds.size());
  const int wanted = std::min(count, most_kinds);
  std::map<std::string, Measured> result;
  int index = 0;
  int done = 0;
  for (const auto& [kind, proposal] : kinds) {
    // Every (count / wanted)-th.
    if (index++ * wanted / count < done) {
      continue;
    }
    if (const auto measured = measure(*proposal, scratch)) {
      result[kind] = *measured;
    }
    on_kind(++done, wanted);
  }
  return result;
}

}  // namespace einforge::search
