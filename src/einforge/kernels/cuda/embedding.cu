#include "einforge/kernels/cuda/embedding.h"

#include <algorithm>

#include "einforge/kernels/cuda/ceil_div.h"
#include "einforge/kernels/cuda/vec4.cuh"

namespace einforge::kernels::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int64_t kMostBlocks = 1 << 16;

// A warp has a row.
template <typename Index>
__global__ void __launch_bounds__(kThreads) embedding_kernel(
    const __grid_constant__ Embedding<Index> p, float* __restrict__ y) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps +
                     static_cast<int>(threadIdx.x) / 32;
       row < p.rows;
       row += static_cast<int64_t>(gridDim.x) * kWarps) {
    const auto index = static_cast<int64_t>(p.index[row]);
    if (index < 0 || index >= p.tokens) {
      __trap();
    }
    const float* token = p.token + index * p.width;
    const float* position = p.position + row % p.time * p.width;
#pragma unroll 4
    for (int column = lane * Vec4::kSize; column < p.width;
         column += 32 * Vec4::kSize) {
      Vec4 v = load_vec4(token + column);
      const Vec4 other = load_vec4(position + column);
#pragma unroll
      for (int i = 0; i < Vec4::kSize; ++i) {
        v.of[i] += other.of[i];
      }
      store_vec4(y + row * p.width + column, v);
    }
  }
}

}  // namespace

bool embedding_supports(int64_t width) {
  return width > 0 && width % Vec4::kSize == 0;
}

template <typename Index>
cudaError_t embedding(
    const Embedding<Index>& p, float* y, cudaStream_t stream) {
  if (!embedding_supports(p.width) || p.rows <= 0 || p.time <= 0) {
    return cudaErrorInvalidValue;
  }
  const auto blocks = std::min<int64_t>(ceil_div(p.rows, kWarps), kMostBlocks);
  embedding_kernel<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(
      p, y);
  return cudaGetLastError();
}

template cudaError_t embedding(const Embedding<int32_t>&, float*, cudaStream_t);
template cudaError_t embedding(const Embedding<int64_t>&, float*, cudaStream_t);

}  // namespace einforge::kernels::cuda
