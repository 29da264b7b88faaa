#include "einforge/ops/cuda/btt_tuner.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGraphsC10Utils.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <fmt/format.h>
#include <torch/version.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdlib>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "einforge/base/console.h"
#include "einforge/kernels/cuda/launch.h"
#include "einforge/ops/cuda/choice_cache.h"
#include "einforge/ops/einsum_linear.h"
#include "einforge/ops/peak_memory.h"

namespace einforge::ops {
namespace {

namespace ek = kernels::cuda;
using torch::Tensor;

// Raised whenever kernels, plans or the way they are measured change so that a
// choice may change.
constexpr int kKernelVersion = 12;

bool environment_is(const char* name, std::string_view value) {
  const char* set = std::getenv(name);
  return set != nullptr && set == value;
}

bool may_measure() {
  static const bool off = environment_is("EINFORGE_AUTOTUNE", "0");
  return !off && c10::cuda::currentStreamCaptureStatusMayInitCtx() ==
                     c10::cuda::CaptureStatus::None;
}

int current_device() {
  int device = 0;
  C10_CUDA_CHECK(cudaGetDevice(&device));
  return device;
}

// Devices of one kind share their choices.
std::shared_ptr<ChoiceCache> choices_of(const std::string& version) {
  static std::mutex mutex;
  static std::map<std::string, std::shared_ptr<ChoiceCache>> all;
  const std::lock_guard lock(mutex);
  std::shared_ptr<ChoiceCache>& choices = all[version];
  if (choices == nullptr) {
    choices = std::make_shared<ChoiceCache>(
        cache_directory() / "cuda_choices.json", version);
  }
  return choices;
}

struct Device {
  ek::DeviceLimits limits;
  std::int64_t l2_bytes = 0;
  std::shared_ptr<ChoiceCache> choices;  // of all devices of its kind
  // The fastest kernel where it is known.
  std::mutex mutex;
  std::map<ProblemKey, std::string> kernels;

  explicit Device(int index) {
    cudaDeviceProp properties{};
    C10_CUDA_CHECK(cudaGetDeviceProperties(&properties, index));
    limits.multiprocessors = properties.multiProcessorCount;
    limits.shared_bytes = static_cast<int>(properties.sharedMemPerBlockOptin);
    const c10::cuda::CUDAGuard guard(static_cast<c10::DeviceIndex>(index));
    limits.major = ek::code_major();
    l2_bytes = properties.l2CacheSize;
    int driver = 0;
    C10_CUDA_CHECK(cudaDriverGetVersion(&driver));
    choices = choices_of(fmt::format(
        "kernels {}, {} ({} multiprocessors), driver {}, torch {}",
        kKernelVersion,
        properties.name,
        properties.multiProcessorCount,
        driver,
        TORCH_VERSION));
  }
};

Device& device() {
  static std::mutex mutex;
  static std::map<int, Device> devices;
  const int index = current_device();
  const std::lock_guard lock(mutex);
  return devices.try_emplace(index, index).first->second;
}

class Event {
 public:
  Event() { C10_CUDA_CHECK(cudaEventCreate(&event_)); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  ~Event() { static_cast<void>(cudaEventDestroy(event_)); }

  void record() const {
    C10_CUDA_CHECK(cudaEventRecord(event_, c10::cuda::getCurrentCUDAStream()));
  }
  double milliseconds_since(const Event& start) const {
    C10_CUDA_CHECK(cudaEventSynchronize(event_));
    float time = 0;
    C10_CUDA_CHECK(cudaEventElapsedTime(&time, start.event_, event_));
    return time;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

// Times a run as bench/timer.h does: with a cold L2 cache, which is how a layer
// finds it between other layers, and with the host ahead, so that launches do
// not show.
class ColdTimer {
 public:
  ColdTimer()
      : flush_(torch::empty(
            {2 * device().l2_bytes},
            torch::TensorOptions().dtype(torch::kUInt8).device(torch::kCUDA))) {
  }

  double milliseconds(const std::function<void()>& run) {
    constexpr int kFlushes = 6;  // some 0.2 ms
    for (int i = 0; i < kFlushes; ++i) {
      flush_.zero_();
    }
    start_.record();
    run();
    stop_.record();
    return stop_.milliseconds_since(start_);
  }

 private:
  Tensor flush_;
  Event start_;
  Event stop_;
};

struct Timing {
  double median = 0;  // milliseconds
  double spread = 0;  // between the quartiles

  // Alone on a device, runs of a kernel differ by less than this. With another
  // process on it, or at changing clocks, the order of candidates may be
  // chance.
  bool is_settled() const { return spread <= std::max(0.15 * median, 0.003); }
};

// A few runs; infinite when they do not fit in memory. Stops early when it is
// clearly slower than `to_beat`.
Timing measure(
    ColdTimer& timer, const std::function<void()>& run, double to_beat) {
  constexpr std::size_t kRuns = 9;
  try {
    run();  // loads the module, fills the allocator's pools
    std::vector<double> times{timer.milliseconds(run)};
    while (times.size() < kRuns && times.front() <= 2 * to_beat) {
      times.push_back(timer.milliseconds(run));
    }
    std::sort(times.begin(), times.end());
    return {
        times[times.size() / 2],
        times[times.size() * 3 / 4] - times[times.size() / 4]};
  } catch (const c10::OutOfMemoryError&) {
    return {.median = std::numeric_limits<double>::infinity()};
  }
}

bool log_is_on() {
  static const bool on = environment_is("EINFORGE_LOG_KERNELS", "1");
  return on;
}

EinsumLinearProblem in_bucket(EinsumLinearProblem problem) {
  problem.tokens = token_bucket(problem.tokens);
  return problem;
}

// The name of the fastest: remembered, or measured now where that is allowed
// and memory suffices.
std::optional<std::string> fastest(
    Device& on,
    const std::string& problem,
    const std::function<std::vector<Candidate>()>& make_candidates) {
  const auto settled = [&]() -> std::optional<std::string> {
    const auto known = on.choices->find(problem);
    return known && (known->is_settled || on.choices->is_own(problem) ||
                     !may_measure())
               ? std::make_optional(known->name)
               : std::nullopt;
  };
  if (auto known = settled(); known || !may_measure()) {
    return known;
  }
  on.choices->refresh();
  if (auto known = settled()) {
    return known;
  }
  const UncountedMemory uncounted(
      {torch::kCUDA, static_cast<c10::DeviceIndex>(current_device())});
  std::optional<Choice> best;
  double least = std::numeric_limits<double>::infinity();
  try {
    ColdTimer timer;
    for (const Candidate& candidate : make_candidates()) {
      const Timing time = measure(timer, candidate.run, least);
      if (log_is_on()) {
        base::note(
            "einforge: measured {}: {} {:.4f} ms{}\n",
            problem,
            candidate.name,
            time.median,
            time.is_settled() ? "" : ", unsettled");
      }
      if (time.median < least) {
        best = {candidate.name, time.median, time.is_settled()};
        least = time.median;
      }
    }
  } catch (const c10::OutOfMemoryError&) {
    return std::nullopt;  // not even the operands fit
  }
  if (!best) {
    return std::nullopt;
  }
  return on.choices->insert(problem, *best);
}

// Random operands of a problem.
struct Operands {
  Tensor x;
  Tensor core_a;
  Tensor core_b;
  Tensor grad;

  explicit Operands(const EinsumLinearProblem& p)
      : x(random_values({p.tokens, p.sizes.d_in()}, p.dtype)),
        core_a(core_a_layout(
            random_values(
                {p.sizes.alpha,
                 p.sizes.gamma,
                 p.sizes.delta,
                 p.sizes.phi,
                 p.sizes.rho},
                p.dtype),
            p.sizes)),
        core_b(core_b_layout(
            random_values(
                {p.sizes.beta,
                 p.sizes.gamma,
                 p.sizes.epsilon,
                 p.sizes.phi,
                 p.sizes.rho},
                p.dtype),
            p.sizes)) {
    if (p.pass == Pass::kBackward) {
      grad = random_values({p.tokens, p.sizes.d_out()}, p.dtype);
    }
  }
};

void run_kernel(
    const EinsumLinearKernel& kernel,
    const EinsumLinearProblem& problem,
    const Operands& v) {
  if (problem.pass == Pass::kForward) {
    kernel.forward(problem, v.x, v.core_a, v.core_b, std::nullopt);
  } else {
    kernel.backward(
        problem, v.grad, v.x, v.core_a, v.core_b, {true, true, true, false});
  }
}

std::optional<std::string> fastest_kernel(const EinsumLinearProblem& asked) {
  const EinsumLinearProblem problem = in_bucket(asked);
  const ProblemKey key = problem_key(problem);
  Device& on = device();
  {
    const std::lock_guard lock(on.mutex);
    if (const auto found = on.kernels.find(key); found != on.kernels.end()) {
      return found->second;
    }
  }
  const auto name = fastest(on, problem.to_string(), [&] {
    const auto operands = std::make_shared<Operands>(problem);
    std::vector<Candidate> candidates;
    for (const EinsumLinearKernel& kernel : cuda_kernels()) {
      if (kernel.supports(problem)) {
        candidates.push_back(
            {std::string(kernel.name), [&kernel, &problem, operands] {
               run_kernel(kernel, problem, *operands);
             }});
      }
    }
    return candidates;
  });
  if (name) {
    const std::lock_guard lock(on.mutex);
    on.kernels[key] = *name;
  }
  return name;
}

}  // namespace

const ek::DeviceLimits& device_limits() {
  return device().limits;
}

std::optional<std::string> fastest_of(
    const std::string& problem,
    const std::function<std::vector<Candidate>()>& make_candidates) {
  return fastest(device(), problem, make_candidates);
}

Tensor random_values(c10::IntArrayRef sizes, torch::ScalarType dtype) {
  constexpr std::int64_t kTile = 1 << 20;
  const auto options = torch::TensorOptions().dtype(dtype).device(torch::kCUDA);
  const Tensor result = torch::empty(sizes, options);
  const Tensor flat = result.view({-1});
  const std::int64_t size = flat.size(0);
  // Of a step far from any period of the sine.
  const Tensor tile =
      (torch::arange(std::min(size, kTile), options.dtype(torch::kFloat32)) *
       12.9898)
          .sin() *
      1.4142;
  for (std::int64_t at = 0; at < size; at += kTile) {
    const std::int64_t count = std::min(kTile, size - at);
    flat.narrow(0, at, count).copy_(tile.narrow(0, 0, count));
  }
  return result;
}

// In powers of two, so that not every length is measured.
std::int64_t token_bucket(std::int64_t tokens) {
  return static_cast<std::int64_t>(
      std::bit_ceil(static_cast<std::uint64_t>(tokens)));
}

ProblemKey problem_key(const EinsumLinearProblem& problem) {
  const structure::Sizes& s = problem.sizes;
  return {
      s.alpha,
      s.beta,
      s.gamma,
      s.delta,
      s.epsilon,
      s.phi,
      s.rho,
      token_bucket(problem.tokens),
      static_cast<std::int64_t>(problem.dtype),
      static_cast<std::int64_t>(problem.pass)};
}

ek::BttPlan fastest_plan(const ek::BttSizes& sizes, std::int64_t asked) {
  Device& on = device();
  const auto plans = ek::btt_plans(sizes, asked, on.limits);
  TORCH_CHECK(!plans.empty(), "[fastest_plan] expected sizes with a plan");
  if (plans.size() == 1) {
    return plans.front();
  }
  const std::int64_t tokens = token_bucket(asked);
  const std::string problem = fmt::format(
      "plan {},{}|{},{}|{} x {}",
      sizes.alpha,
      sizes.gamma,
      sizes.epsilon,
      sizes.phi,
      sizes.rho,
      tokens);
  const auto name = fastest(on, problem, [&] {
    const Tensor x = random_values({tokens, sizes.d_in()}, torch::kBFloat16);
    const Tensor y = torch::empty({tokens, sizes.d_out()}, x.options());
    std::vector<Candidate> candidates;
    for (const ek::BttPlan& plan : plans) {
      const std::size_t bytes =
          ek::btt_packed_bytes(ek::btt_packed_sizes(sizes, plan));
      const Tensor packed =
          random_values({static_cast<int64_t>(bytes / 2)}, torch::kBFloat16);
      candidates.push_back(
          {plan.name(), [&on, &sizes, x, y, packed, plan] {
             const ek::BttLaunch launch{
                 .x = static_cast<const __nv_bfloat16*>(x.const_data_ptr()),
                 .y = static_cast<__nv_bfloat16*>(y.mutable_data_ptr()),
                 .x_stride = sizes.d_in(),
                 .y_stride = sizes.d_out(),
                 .tokens = x.size(0),
                 .packed = packed.mutable_data_ptr()};
             C10_CUDA_CHECK(ek::btt_forward(
                 sizes,
                 launch,
                 plan,
                 on.limits,
                 /*after_pack=*/false,
                 c10::cuda::getCurrentCUDAStream()));
           }});
    }
    return candidates;
  });
  for (const ek::BttPlan& plan : plans) {
    if (name && plan.name() == *name) {
      return plan;
    }
  }
  return plans.front();
}

bool is_fastest(const EinsumLinearProblem& problem, std::string_view kernel) {
  const auto name = fastest_kernel(problem);
  return !name || *name == kernel;
}

bool merged_is_fastest(const EinsumLinearProblem& asked) {
  const EinsumLinearProblem problem = in_bucket(asked);
  const auto name = fastest(device(), problem.to_string() + ", or merged", [&] {
    const auto operands = std::make_shared<Operands>(problem);
    const Tensor merged = random_values(
        {problem.sizes.d_out(), problem.sizes.d_in()}, problem.dtype);
    const EinsumLinearKernel& kernel = choose(cuda_kernels(), problem);
    return std::vector<Candidate>{
        {"kernel",
         [&kernel, &problem, operands] {
           run_kernel(kernel, problem, *operands);
         }},
        {"merged", [merged, operands] { torch::linear(operands->x, merged); }}};
  });
  return name == "merged";
}

}  // namespace einforge::ops
