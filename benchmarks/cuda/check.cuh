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
