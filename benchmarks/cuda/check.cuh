#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
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
