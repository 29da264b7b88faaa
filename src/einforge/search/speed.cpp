#include "einforge/search/speed.h"

#include <torch/cuda.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <exception>
#include <optional>
#include <system_error>

#include "einforge/base/random.h"
#include "einforge/search/layer_sums.h"
#include "einforge/train/device.h"
#include "einforge/train/trainer.h"

namespace einforge::search {
namespace {

using Clock = std::chrono::steady_clock;

double flops_per_step(const Proposal& proposal) {
  return proposal.flops / static_cast<double>(proposal.config.steps);
}

// None when it cannot be trained.
std::optional<Measured> measure(
    const Proposal& proposal, const std::filesystem::path& scratch) {
  constexpr auto kEnough = std::chrono::milliseconds(500);
  const torch::Device device = train::resolve_device(proposal.config.device);
  // On a GPU what was asked for is done later: blocks of steps are waited for,
  // after those in which the allocator settles.
  const bool waits = device.is_cuda();
  const std::int64_t block = waits ? 5 : 1;
  const std::int64_t first = waits ? 5 : 1;
  train::TrainConfig config = proposal.config;
  config.steps = first + 4 * block + (waits ? 0 : 15);
  config.eval_every = config.steps;
  config.eval_batches = 1;
  config.checkpoint_every = 0;
  config.schedule.warmup_steps = 0;

  std::vector<double> seconds;  // of a step, by block
  Clock::time_point begin;
  Clock::time_point last;
  train::TrainOptions options;
  options.directory = scratch;
  options.progress = false;
  options.on_warning = [](const std::string&) {};  // this is no trial
  options.on_step = [&](std::int64_t step, double) {
    if (step < first || (step - first) % block != 0) {
      return;
    }
    if (waits) {
      torch::cuda::synchronize(device.index());
    }
    const Clock::time_point now = Clock::now();
    if (step == first) {
      begin = now;
    } else {
      seconds.push_back(
          std::chrono::duration<double>(now - last).count() /
          static_cast<double>(block));
    }
    last = now;
  };
  options.should_stop = [&] {
    return !seconds.empty() && last - begin > kEnough;
  };
  try {
    train::train(config, options);
  } catch (const std::exception&) {
    seconds.clear();  // the search itself will say why
  }
  std::error_code ignored;
  std::filesystem::remove_all(scratch, ignored);
  if (seconds.empty()) {
    return std::nullopt;
  }
  // The middle: the last has an evaluation in it.
  const auto middle =
      seconds.begin() + static_cast<std::ptrdiff_t>((seconds.size() - 1) / 2);
  std::ranges::nth_element(seconds, middle);
  if (*middle <= 0) {
    return std::nullopt;
  }
  return Measured{
      flops_per_step(proposal) / *middle, train::peak_memory_bytes(device)};
}

// The first proposal of each kind that can be built.
std::vector<const Proposal*> kinds_of(const std::vector<Proposal>& proposals) {
  std::map<std::string, const Proposal*> kinds;
  for (const Proposal& proposal : proposals) {
    if (proposal.trial.status != store::Status::kFailed) {
      kinds.emplace(kind_of(proposal), &proposal);
    }
  }
  std::vector<const Proposal*> result;
  for (const auto& [kind, proposal] : kinds) {
    result.push_back(proposal);
  }
  return result;
}

}  // namespace

std::map<std::string, Measured> measure_speeds(
    const std::vector<Proposal>& proposals,
    int threads,
    const std::filesystem::path& scratch,
    int most_kinds,
    const std::function<void(int, int)>& on_kind) {
  const std::vector<const Proposal*> kinds = kinds_of(proposals);
  const LayerSums sums(kinds);
  torch::set_num_threads(threads);
  const std::vector<std::size_t> chosen =
      sums.to_measure(static_cast<std::size_t>(std::max(0, most_kinds)));
  std::vector<double> seconds(kinds.size(), NAN);  // of a step
  std::vector<double> memory(kinds.size(), NAN);
  for (std::size_t done = 0; done < chosen.size(); ++done) {
    const std::size_t i = chosen[done];
    if (const auto measured = measure(*kinds[i], scratch)) {
      seconds[i] = flops_per_step(*kinds[i]) / measured->speed;
      memory[i] = measured->memory;
    }
    on_kind(static_cast<int>(done) + 1, static_cast<int>(chosen.size()));
  }
  const std::vector<double> all_seconds = sums.complete(seconds);
  const std::vector<double> all_memory = sums.complete(memory);
  std::map<std::string, Measured> result;
  for (std::size_t i = 0; i < kinds.size(); ++i) {
    if (std::isfinite(all_seconds[i])) {
      result[kind_of(*kinds[i])] = {
          .speed = flops_per_step(*kinds[i]) / all_seconds[i],
          .memory = all_memory[i],
          .predicted = std::isnan(seconds[i])};
    }
  }
  return result;
}

std::vector<PredictedStep> check_predictions(
    const std::vector<Proposal>& proposals,
    const std::map<std::string, Measured>& speeds,
    const std::filesystem::path& scratch,
    int count,
    std::uint64_t seed,
    const std::function<void(int, int)>& on_kind) {
  std::vector<const Proposal*> kinds = kinds_of(proposals);
  std::erase_if(kinds, [&](const Proposal* proposal) {
    const auto found = speeds.find(kind_of(*proposal));
    return found == speeds.end() || !found->second.predicted;
  });
  base::Random random(seed);
  std::vector<PredictedStep> result;
  const int all = std::min(count, static_cast<int>(kinds.size()));
  for (int done = 0; done < all; ++done) {
    const auto drawn = static_cast<std::ptrdiff_t>(random.below(kinds.size()));
    const Proposal& proposal = *kinds[static_cast<std::size_t>(drawn)];
    kinds.erase(kinds.begin() + drawn);
    if (const auto measured = measure(proposal, scratch)) {
      const std::string kind = kind_of(proposal);
      const double milliseconds = 1e3 * flops_per_step(proposal);
      result.push_back(
          {kind,
           milliseconds / speeds.at(kind).speed,
           milliseconds / measured->speed});
    }
    on_kind(done + 1, all);
  }
  return result;
}

}  // namespace einforge::search
