#include "einforge/ops/cuda/btt_tuner.h"

#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGraphsC10Utils.h>
#include <c10/cuda/CUDAStream.h>
#include <fmt/format.h>
#include <torch/version.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <functional>
#include <limits>
#include <memory>

#include "einforge/ops/cuda/choice_cache.h"
#include "einforge/ops/einsum_linear.h"

namespace einforge::ops {
namespace {

namespace ek = kernels::cuda;
using torch::Tensor;

// Raised whenever the kernels change in a way that may change a choice.
constexpr int kKernelVersion = 2;

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

struct Device {
  ek::DeviceLimits limits;
  std::unique_ptr<ChoiceCache> choices;

  explicit Device(int index) {
    cudaDeviceProp properties{};
    C10_CUDA_CHECK(cudaGetDeviceProperties(&properties, index));
    limits.multiprocessors = properties.multiProcessorCount;
    limits.shared_bytes = static_cast<int>(properties.sharedMemPerBlockOptin);
    limits.major = properties.major;
    int driver = 0;
    C10_CUDA_CHECK(cudaDriverGetVersion(&driver));
    choices = std::make_unique<ChoiceCache>(
        cache_directory() / "cuda_choices.json",
        fmt::format(
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

double milliseconds(const std::function<void()>& run, int repeats) {
  const Event start;
  const Event stop;
  start.record();
  for (int i = 0; i < repeats; ++i) {
    run();
  }
  stop.record();
  return stop.milliseconds_since(start) / repeats;
}

// The least of three means; infinite when it does not fit in memory. Stops
// early when it is clearly slower than `to_beat`.
double measure(const std::function<void()>& run, double to_beat) {
  try {
    run();  // loads the module, fills the allocator's pools
    const double first = milliseconds(run, 2);
    if (first > 2 * to_beat) {
      return first;
    }
    // About a millisecond each, so that the clock's and the launches' noise
    // is small.
    const int repeats = std::clamp(static_cast<int>(1.0 / first), 3, 20);
    double least = std::numeric_limits<double>::infinity();
    for (int i = 0; i < 3; ++i) {
      least = std::min(least, milliseconds(run, repeats));
    }
    return least;
  } catch (const c10::OutOfMemoryError&) {
    return std::numeric_limits<double>::infinity();
  }
}

// Random values that leave torch's own generator, and so a training run's
// random numbers, as they are.
Tensor random(c10::IntArrayRef sizes, torch::ScalarType dtype) {
  auto generator = at::detail::getCUDAHooks().getNewGenerator(current_device());
  generator.set_current_seed(1);
  return torch::empty(
             sizes, torch::TensorOptions().dtype(dtype).device(torch::kCUDA))
      .normal_(0, 1, generator);
}

bool log_is_on() {
  static const bool on = environment_is("EINFORGE_LOG_KERNELS", "1");
  return on;
}

std::string bucket(std::int64_t tokens) {
  return std::to_string(std::bit_ceil(static_cast<std::uint64_t>(tokens)));
}

struct Candidate {
  std::string name;
  std::function<void()> run;
};

// Measures all and returns the name of the fastest.
std::string fastest(
    const std::string& problem, const std::vector<Candidate>& candidates) {
  std::string best;
  double least = std::numeric_limits<double>::infinity();
  for (const Candidate& candidate : candidates) {
    const double time = measure(candidate.run, least);
    if (log_is_on()) {
      fmt::print(
          stderr,
          "einforge: measured {}: {} {:.4f} ms\n",
          problem,
          candidate.name,
          time);
    }
    if (best.empty() || time < least) {
      best = candidate.name;
      least = time;
    }
  }
  return best;
}

}  // namespace

const ek::DeviceLimits& device_limits() {
  return device().limits;
}

ek::BttPlan fastest_plan(const ek::BttSizes& sizes, std::int64_t tokens) {
  Device& on = device();
  const auto plans = ek::btt_plans(sizes, tokens, on.limits);
  TORCH_CHECK(!plans.empty(), "[fastest_plan] expected sizes with a plan");
  const std::string problem = fmt::format(
      "plan {},{}|{},{}|{} x {}",
      sizes.alpha,
      sizes.gamma,
      sizes.epsilon,
      sizes.phi,
      sizes.rho,
      bucket(tokens));
  std::optional<std::string> name = on.choices->find(problem);
  if (!name && plans.size() > 1 && may_measure()) {
    const Tensor x = random({tokens, sizes.d_in()}, torch::kBFloat16);
    const Tensor y = torch::empty({tokens, sizes.d_out()}, x.options());
    const Tensor packed = random(
        {static_cast<int64_t>(ek::btt_packed_bytes(sizes) / 2)},
        torch::kBFloat16);
    const ek::BttLaunch launch{
        .x = static_cast<const __nv_bfloat16*>(x.const_data_ptr()),
        .y = static_cast<__nv_bfloat16*>(y.mutable_data_ptr()),
        .x_stride = sizes.d_in(),
        .y_stride = sizes.d_out(),
        .tokens = tokens,
        .packed = packed.mutable_data_ptr()};
    std::vector<Candidate> candidates;
    for (const ek::BttPlan& plan : plans) {
      candidates.push_back({plan.name(), [&sizes, &launch, &on, plan] {
                              C10_CUDA_CHECK(ek::btt_forward(
                                  sizes,
                                  launch,
                                  plan,
                                  on.limits,
                                  /*after_pack=*/false,
                                  c10::cuda::getCurrentCUDAStream()));
                            }});
    }
    name = fastest(problem, candidates);
    on.choices->insert(problem, *name);
  }
  for (const ek::BttPlan& plan : plans) {
    if (name && plan.name() == *name) {
      return plan;
    }
  }
  return plans.front();
}

bool fused_is_faster(
    const EinsumLinearProblem& problem,
    const EinsumLinearKernel& fused,
    const EinsumLinearKernel& fallback) {
  EinsumLinearProblem rounded = problem;
  rounded.tokens = static_cast<std::int64_t>(
      std::bit_ceil(static_cast<std::uint64_t>(problem.tokens)));
  const std::string key = rounded.to_string();
  Device& on = device();
  std::optional<std::string> name = on.choices->find(key);
  if (!name && may_measure()) {
    const structure::Sizes& s = problem.sizes;
    const Tensor x = random({problem.tokens, s.d_in()}, problem.dtype);
    const Tensor core_a = core_a_layout(
        random({s.alpha, s.gamma, s.delta, s.phi, s.rho}, problem.dtype), s);
    const Tensor core_b = core_b_layout(
        random({s.beta, s.gamma, s.epsilon, s.phi, s.rho}, problem.dtype), s);
    const Tensor grad = problem.pass == Pass::kBackward
                            ? random({problem.tokens, s.d_out()}, problem.dtype)
                            : Tensor();
    const auto candidate = [&](const EinsumLinearKernel& kernel) {
      return Candidate{
          std::string(kernel.name), [&] {
            if (problem.pass == Pass::kForward) {
              kernel.forward(problem, x, core_a, core_b, std::nullopt);
            } else {
              kernel.backward(
                  problem, grad, x, core_a, core_b, {true, true, true, false});
            }
          }};
    };
    name = fastest(key, {candidate(fused), candidate(fallback)});
    on.choices->insert(key, *name);
  }
  return !name || *name == fused.name;
}

}  // namespace einforge::ops
