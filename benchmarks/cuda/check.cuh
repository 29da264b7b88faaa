#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

// What the checks of single kernels in this folder share.

using Bf16 = __nv_bfloat16;

// Of a call of CUDA or cuBLAS: ends the program where it failed.
#define CHECK(call)                                \
  do {                                             \
    const auto status_ = (call);                   \
    if (static_cast<int>(status_) != 0) {          \
      std::printf(                                 \
          "%s:%d: %s: error %d (%s)\n",            \
          __FILE__,                                \
          __LINE__,                                \
          #call,                                   \
          static_cast<int>(status_),               \
          cudaGetErrorString(cudaGetLastError())); \
      std::exit(2);                                \
    }                                              \
  } while (false)

// Memory of the device, poisoned until something is written.
template <typename T>
struct Buffer {
  T* data = nullptr;
  size_t size = 0;
  explicit Buffer(size_t n) : size(n) {
    CHECK(cudaMalloc(&data, std::max<size_t>(n, 8) * sizeof(T)));
    poison();
  }
  explicit Buffer(const std::vector<T>& from) : Buffer(from.size()) {
    CHECK(cudaMemcpy(
        data, from.data(), size * sizeof(T), cudaMemcpyHostToDevice));
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { cudaFree(data); }
  // All ones: NaN as bfloat16, float or double.
  void poison() { CHECK(cudaMemset(data, 0xFF, size * sizeof(T))); }
  std::vector<T> host() const {
    std::vector<T> all(size);
    CHECK(
        cudaMemcpy(all.data(), data, size * sizeof(T), cudaMemcpyDeviceToHost));
    return all;
  }
};

// More than an L2 cache holds, so that nothing is found there.
struct Flush {
  Buffer<char> memory{160 << 20};
  void run() { CHECK(cudaMemsetAsync(memory.data, 0, memory.size)); }
};

// Median milliseconds of `work(i)`, i the repetition, each after a `before()`
// that is not measured. With PROFILED in the environment of one repetition
// alone.
template <typename Before, typename Work>
double time_ms(const Before& before, const Work& work) {
  const bool profiled = std::getenv("PROFILED") != nullptr;
  const int first = profiled ? 0 : 3;  // those before do not count
  const int repeats = first + (profiled ? 1 : 12);
  std::vector<cudaEvent_t> events(2 * static_cast<size_t>(repeats));
  for (cudaEvent_t& event : events) {
    CHECK(cudaEventCreate(&event));
  }
  for (int i = 0; i < repeats; ++i) {
    before();
    CHECK(cudaEventRecord(events[2 * i]));
    work(i);
    CHECK(cudaEventRecord(events[2 * i + 1]));
  }
  CHECK(cudaDeviceSynchronize());
  std::vector<float> times;
  for (int i = first; i < repeats; ++i) {
    times.push_back(0);
    CHECK(
        cudaEventElapsedTime(&times.back(), events[2 * i], events[2 * i + 1]));
  }
  for (const cudaEvent_t event : events) {
    CHECK(cudaEventDestroy(event));
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

template <typename Work>
double time_ms(const Work& work) {
  return time_ms([] {}, work);
}

template <typename Work>
double time_ms(Flush& flush, const Work& work) {
  return time_ms([&] { flush.run(); }, [&](int) { work(); });
}

inline std::vector<Bf16> random_values(
    size_t n, std::mt19937& random, float deviation) {
  std::normal_distribution<float> normal(0, deviation);
  std::vector<Bf16> values(n);
  for (Bf16& v : values) {
    v = __float2bfloat16(normal(random));
  }
  return values;
}

inline __device__ uint32_t hash(uint64_t v) {
  v ^= v >> 33;
  v *= 0xff51afd7ed558ccdULL;
  v ^= v >> 33;
  v *= 0xc4ceb9fe1a85ec53ULL;
  v ^= v >> 33;
  return static_cast<uint32_t>(v);
}

// Sum of four uniforms: mean 0, deviation `deviation`.
[[maybe_unused]] static __global__ void fill_random(
    Bf16* out, size_t n, uint64_t seed, float deviation) {
  const size_t stride = static_cast<size_t>(gridDim.x) * blockDim.x;
  for (size_t i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride) {
    float sum = 0;
    for (int k = 0; k < 4; ++k) {
      sum += static_cast<float>(hash((seed << 34) + i * 4 + k)) * 0x1p-32F;
    }
    out[i] = __float2bfloat16((sum - 2.0F) * 1.7320508F * deviation);
  }
}
