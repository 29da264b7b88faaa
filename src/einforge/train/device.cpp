#include "einforge/train/device.h"

#include <ATen/autocast_mode.h>
#include <torch/cuda.h>

#include <algorithm>
#include <chrono>

#include "einforge/base/error.h"
#include "einforge/base/text.h"
#include "einforge/ops/peak_memory.h"

namespace einforge::train {

torch::Device resolve_device(
    const std::string& name, std::optional<int> local_rank) {
  const bool available = torch::cuda::is_available();
  if (name == "cpu" || (name == "auto" && !available)) {
    return torch::kCPU;
  }
  const bool numbered = name.starts_with("cuda:");
  base::check(
      name == "auto" || name == "cuda" || numbered,
      "device: expected auto, cpu, cuda or cuda:N; got '{}'",
      name);
  base::check(
      !numbered || !local_rank,
      "device: expected cuda, of which each process takes the GPU of its "
      "number; got '{}'",
      name);
  const auto count = static_cast<long long>(torch::cuda::device_count());
  // A launcher may show each process its own GPU alone.
  const long long own = count == 1 ? 0 : local_rank.value_or(0);
  base::check(
      !available || own < count,
      "device: expected at most {} processes on this machine, one a GPU; got "
      "local rank {}",
      count,
      own);
  const long long index =
      numbered ? base::parse_integer("device", name.substr(5)) : own;
  base::check(
      available && index >= 0 && index < count,
      "device: expected cpu, or one of the {} GPUs that CUDA sees here; got "
      "'{}'",
      available ? count : 0,
      name);
  return {torch::kCUDA, static_cast<torch::DeviceIndex>(index)};
}

torch::ScalarType resolve_dtype(const std::string& name, torch::Device device) {
  if (name == "auto") {
    return device.is_cuda() ? torch::kBFloat16 : torch::kFloat32;
  }
  base::check(
      name == "float32" || name == "bfloat16",
      "dtype: expected auto, float32 or bfloat16; got '{}'",
      name);
  return name == "float32" ? torch::kFloat32 : torch::kBFloat16;
}

Autocast::Autocast(torch::Device device, torch::ScalarType dtype)
    : device_(device.type()), active_(dtype != torch::kFloat32) {
  if (!active_) {
    return;
  }
  was_enabled_ = at::autocast::is_autocast_enabled(device_);
  was_dtype_ = at::autocast::get_autocast_dtype(device_);
  cached_ = at::autocast::is_autocast_cache_enabled();
  at::autocast::set_autocast_enabled(device_, true);
  at::autocast::set_autocast_dtype(device_, dtype);
  // No weight is used twice in a forward pass, so a cache of casts only holds
  // memory.
  at::autocast::set_autocast_cache_enabled(false);
  at::autocast::increment_nesting();
}

Autocast::~Autocast() {
  if (!active_) {
    return;
  }
  if (at::autocast::decrement_nesting() == 0) {
    at::autocast::clear_cache();
  }
  at::autocast::set_autocast_enabled(device_, was_enabled_);
  at::autocast::set_autocast_dtype(device_, was_dtype_);
  at::autocast::set_autocast_cache_enabled(cached_);
}

double peak_memory_bytes(torch::Device device) {
  return ops::peak_memory_bytes(device);
}

double measure_peak_flops(torch::Device device, torch::ScalarType dtype) {
  const torch::NoGradGuard no_grad;
  const ops::UncountedMemory uncounted(device);
  // Large enough to fill the device: 4 GFLOP on a CPU, 1 TFLOP on a GPU.
  const std::int64_t n = device.is_cuda() ? 8192 : 1280;
  const auto options = torch::TensorOptions().device(device).dtype(dtype);
  // Not a constant: a GPU multiplies those faster, because fewer bits toggle.
  const torch::Tensor a = torch::linspace(-1, 1, n * n, options).view({n, n});
  torch::Tensor product = torch::empty({n, n}, options);
  double best = 0;
  for (int repeat = 0; repeat < 6; ++repeat) {
    const auto start = std::chrono::steady_clock::now();
    torch::mm_out(product, a, a);
    if (device.is_cuda()) {
      torch::cuda::synchronize(device.index());
    }
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start)
            .count();
    const double flops = 2.0 * static_cast<double>(n * n * n) / seconds;
    best = std::max(best, flops);
  }
  return best;
}

}  // namespace einforge::train
