#include "einforge/bench/device.h"

#include <ATen/Parallel.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <fmt/format.h>

#include <fstream>
#include <string>

#include "einforge/base/text.h"
#include "einforge/kernels/cpu/isa.h"
#ifdef EINFORGE_HAVE_CUDA
#include <c10/cuda/CUDAException.h>
#include <cuda_runtime_api.h>
#endif

namespace einforge::bench {
namespace {

using base::Json;

std::string cpu_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.starts_with("model name")) {
      return base::trim(line.substr(line.find(':') + 1));
    }
  }
  return "unknown";
}

#ifdef EINFORGE_HAVE_CUDA
// 13000 is 13.0.
std::string cuda_version(int number) {
  return fmt::format("{}.{}", number / 1000, number % 1000 / 10);
}

Json describe_gpu(int device) {
  cudaDeviceProp properties{};
  C10_CUDA_CHECK(cudaGetDeviceProperties(&properties, device));
  int driver = 0;
  int runtime = 0;
  C10_CUDA_CHECK(cudaDriverGetVersion(&driver));
  C10_CUDA_CHECK(cudaRuntimeGetVersion(&runtime));
  const auto attribute = [&](cudaDeviceAttr which) {
    int value = 0;
    C10_CUDA_CHECK(cudaDeviceGetAttribute(&value, which, device));
    return value;
  };
  return {
      {"type", "cuda"},
      {"name", std::string(properties.name)},
      {"multiprocessors", properties.multiProcessorCount},
      {"memory_gb", static_cast<double>(properties.totalGlobalMem) * 1e-9},
      {"l2_mb", properties.l2CacheSize * 1e-6},
      {"largest_clock_mhz", attribute(cudaDevAttrClockRate) / 1000},
      {"largest_memory_clock_mhz",
       attribute(cudaDevAttrMemoryClockRate) / 1000},
      {"cuda_driver", cuda_version(driver)},
      {"cuda_runtime", cuda_version(runtime)}};
}
#endif

}  // namespace

Json describe_device(torch::Device device) {
  if (!device.is_cuda()) {
    return {
        {"type", "cpu"},
        {"name", cpu_name()},
        {"threads", at::get_num_threads()},
        {"instructions",
         std::string(kernels::cpu::isa_name(kernels::cpu::best_isa()))}};
  }
#ifdef EINFORGE_HAVE_CUDA
  return describe_gpu(device.index());
#else
  return {{"type", "cuda"}, {"name", device.str()}};
#endif
}

void free_memory(torch::Device device) {
  if (device.is_cuda()) {
    c10::getDeviceAllocator(device.type())->emptyCache();
  }
}

}  // namespace einforge::bench
