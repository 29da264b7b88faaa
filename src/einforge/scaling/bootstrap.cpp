#include "einforge/scaling/bootstrap.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <exception>
#include <limits>
#include <mutex>
#include <thread>

#include "einforge/base/random.h"

namespace einforge::scaling {
namespace {

// The size of the noise is known only as well as `degrees` residuals tell:
// drawing it from its own distribution makes the intervals as wide as Student's
// t.
double draw_size(const RunNoise& noise, base::Random& random) {
  double chi_squared = 0;
  for (int i = 0; i < noise.degrees; ++i) {
    chi_squared += std::pow(random.normal(), 2);
  }
  return noise.size * std::sqrt(noise.degrees / chi_squared);
}

// Runs that are not drawn are left out: a second copy changes no hull.
std::vector<double> draw_runs(std::size_t runs, base::Random& random) {
  std::vector<double> shifts(runs, std::numeric_limits<double>::infinity());
  for (std::size_t i = 0; i < runs; ++i) {
    shifts[random.below(runs)] = 0;
  }
  return shifts;
}

}  // namespace

std::vector<Replicate> bootstrap(
    std::span<const Family> families,
    std::optional<std::size_t> baseline,
    std::span<const TangentFit> fits,
    const std::optional<RunNoise>& noise,
    const TangentOptions& tangent,
    const BootstrapOptions& options) {
  TangentOptions refit = tangent;
  refit.rounds = 4;
  refit.start = fits;
  std::vector<Replicate> replicates(
      static_cast<std::size_t>(options.replicates));
  const auto replicate = [&](int i) {
    // Seeds far apart: neighbours would share their numbers, one step apart.
    base::Random seeds(
        options.seed +
        0x632be59bd9b4e019 * (1 + static_cast<std::uint64_t>(i)));
    base::Random random(seeds.next());
    const double size = noise ? draw_size(*noise, random) : 0;
    Shifts shifts;
    for (std::size_t f = 0; f < families.size(); ++f) {
      if (!noise || tangent.skip[f] != 0) {
        shifts.push_back(draw_runs(families[f].curves.size(), random));
        continue;
      }
      auto& family = shifts.emplace_back();
      for (const double residual : fits[f].residuals) {
        family.push_back(size * random.normal() - residual);
      }
    }
    const Outcome outcome = noise ? evaluate(families, shifts, baseline, refit)
                                  : compare(families, shifts, baseline);
    Replicate& result = replicates[static_cast<std::size_t>(i)];
    for (const TangentFit& fit : outcome.fits) {
      result.laws.push_back(fit.law);
    }
    result.laws.resize(families.size());
    for (const auto& multiplier : outcome.multipliers) {
      result.log_multipliers.push_back(
          multiplier ? std::optional(multiplier->log_value) : std::nullopt);
    }
  };
  in_parallel(options.replicates, options.threads, replicate, options.progress);
  return replicates;
}

void in_parallel(
    int count,
    int threads,
    const std::function<void(int)>& task,
    const std::function<void(int done, int total)>& progress) {
  std::atomic<int> next = 0;
  std::mutex mutex;
  std::condition_variable changed;
  int done = 0;
  int working = 0;
  std::exception_ptr error;
  const auto work = [&] {
    try {
      for (int i = next++; i < count; i = next++) {
        task(i);
        const std::lock_guard lock(mutex);
        ++done;
        changed.notify_one();
      }
    } catch (...) {
      const std::lock_guard lock(mutex);
      error = std::current_exception();
      next = count;
    }
    const std::lock_guard lock(mutex);
    --working;
    changed.notify_one();
  };
  if (threads <= 0) {
    threads = static_cast<int>(std::thread::hardware_concurrency());
  }
  threads = std::clamp(threads, 1, std::max(count, 1));
  working = threads;
  std::vector<std::jthread> workers;
  for (int i = 0; i < threads; ++i) {
    workers.emplace_back(work);
  }
  std::unique_lock lock(mutex);
  while (working > 0) {
    changed.wait_for(lock, std::chrono::milliseconds(100));
    if (progress) {
      const int now = done;
      lock.unlock();
      progress(now, count);
      lock.lock();
    }
  }
  lock.unlock();
  workers.clear();
  if (error) {
    std::rethrow_exception(error);
  }
}

}  // namespace einforge::scaling
