#include "einforge/bench/timer.h"

#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <chrono>
#include <cmath>

namespace einforge::bench {
namespace {

// Twice the largest L2 cache of today's GPUs, 128 MiB.
constexpr std::int64_t kFlushBytes = std::int64_t{256} << 20;
// Each overwriting takes a GPU about 0.1 ms, in which the host gets ahead: the
// launches of some dozen kernels and of autograd must not show between the
// events.
constexpr int kFlushes = 10;

}  // namespace

Timer::Timer(torch::Device device) : device_(device) {
  if (device.is_cuda()) {
    flush_ = torch::empty(
        {kFlushBytes},
        torch::TensorOptions().device(device).dtype(torch::kUInt8));
  }
}

std::vector<double> Timer::milliseconds(
    const std::function<void()>& work, std::int64_t calls) {
  std::vector<double> times;
  if (!device_.is_cuda()) {
    for (std::int64_t call = 0; call < calls; ++call) {
      const auto start = std::chrono::steady_clock::now();
      work();
      times.push_back(std::chrono::duration<double, std::milli>(
                          std::chrono::steady_clock::now() - start)
                          .count());
    }
    return times;
  }
  const c10::impl::VirtualGuardImpl guard(device_.type());
  const c10::Stream stream = guard.getStream(device_);
  const auto record = [&](std::vector<c10::Event>& events) {
    events.emplace_back(device_.type(), c10::EventFlag::BACKEND_DEFAULT)
        .record(stream);
  };
  std::vector<c10::Event> starts;
  std::vector<c10::Event> ends;
  for (std::int64_t call = 0; call < calls; ++call) {
    for (int i = 0; i < kFlushes; ++i) {
      flush_.zero_();
    }
    record(starts);
    work();
    record(ends);
  }
  ends.back().synchronize();
  for (std::size_t i = 0; i < ends.size(); ++i) {
    times.push_back(starts[i].elapsedTime(ends[i]));
  }
  return times;
}

Times summarise(std::vector<double> milliseconds) {
  std::sort(milliseconds.begin(), milliseconds.end());
  const auto quantile = [&](double share) {
    const double at = share * static_cast<double>(milliseconds.size() - 1);
    const auto below = static_cast<size_t>(at);
    const auto above = std::min(below + 1, milliseconds.size() - 1);
    return milliseconds[below] +
           (at - std::floor(at)) * (milliseconds[above] - milliseconds[below]);
  };
  Times times;
  times.median = quantile(0.5);
  times.min = milliseconds.front();
  times.spread = (quantile(0.9) - quantile(0.1)) / times.median;
  return times;
}

Ceilings measure_ceilings(
    torch::Device device, torch::ScalarType dtype, Timer& timer) {
  const torch::NoGradGuard no_grad;
  constexpr int kRepeats = 7;
  const std::int64_t n = device.is_cuda() ? 8192 : 1536;
  const std::int64_t elements = std::int64_t{1} << (device.is_cuda() ? 29 : 25);
  const auto options = torch::TensorOptions().device(device).dtype(dtype);
  Ceilings ceilings;
  {
    // Random, because a GPU multiplies constants faster: fewer bits toggle.
    const torch::Tensor a = torch::randn({n, n}, options);
    torch::Tensor product = torch::empty({n, n}, options);
    double best = INFINITY;
    for (int repeat = 0; repeat < kRepeats; ++repeat) {
      best = std::min(
          best, timer.milliseconds([&] { torch::mm_out(product, a, a); }));
    }
    ceilings.flops =
        2e3 * static_cast<double>(n) * static_cast<double>(n * n) / best;
  }
  const torch::Tensor from = torch::zeros({elements}, options);
  torch::Tensor to = torch::empty_like(from);
  double best = INFINITY;
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
    best = std::min(best, timer.milliseconds([&] { to.copy_(from); }));
  }
  ceilings.bandwidth =
      2e3 * static_cast<double>(from.numel() * from.element_size()) / best;
  return ceilings;
}

double limit_ms(const Ceilings& ceilings, double flops, double bytes) {
  return 1e3 * std::max(flops / ceilings.flops, bytes / ceilings.bandwidth);
}

}  // namespace einforge::bench
