#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

// y[b, t] = token[index[b, t]] + position[t], in one pass over y.
namespace einforge::kernels::cuda {

// A multiple of 4.
[[nodiscard]] bool embedding_supports(int64_t width);

// Tables and y are aligned to 16 bytes.
template <typename Index>
struct Embedding {
  const float* token = nullptr;     // (tokens, width)
  const float* position = nullptr;  // (time, width)
  const Index* index = nullptr;     // (rows), each from 0 to tokens - 1
  int64_t tokens = 0;
  int64_t rows = 0;  // a multiple of time
  int time = 0;
  int width = 0;
};

// An index out of its range ends the kernel with an error, as torch's does.
//
// @param Index int32_t or int64_t
// @param y (rows, width)
template <typename Index>
[[nodiscard]] cudaError_t embedding(
    const Embedding<Index>& operands, float* y, cudaStream_t stream);

}  // namespace einforge::kernels::cuda
