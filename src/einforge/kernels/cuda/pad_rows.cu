#include "einforge/kernels/cuda/pad_rows.h"

#include "einforge/kernels/cuda/ceil_div.h"

namespace einforge::kernels::cuda {

namespace {

constexpr int kThreads = 256;

// The element at `at` as what a thread reads at once: one, or two where rows
// have an even length.
template <typename Word>
__device__ __forceinline__ Word word_at(const uint16_t* from, int64_t at) {
  return __ldg(reinterpret_cast<const Word*>(from + at));
}

// A thread writes 16 bytes.
template <typename Word>
__global__ void __launch_bounds__(kThreads)
    pad_rows_kernel(const __grid_constant__ PadLaunch p) {
  constexpr int kElements = sizeof(Word) / sizeof(uint16_t);
  constexpr int kWords = 8 / kElements;
  const int64_t v = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int vectors = p.padded / 8;
  const int64_t row = v / vectors;
  if (row >= p.rows) {
    return;
  }
  const int first = static_cast<int>(v - row * vectors) * 8;
  const auto* from = reinterpret_cast<const uint16_t*>(p.from);
  alignas(16) Word words[kWords];
#pragma unroll
  for (int i = 0; i < kWords; ++i) {
    const int column = first + i * kElements;
    words[i] = column < p.inner ? word_at<Word>(from, row * p.inner + column)
                                : Word{0};
  }
  reinterpret_cast<uint4*>(p.to)[v] = *reinterpret_cast<const uint4*>(words);
}

template <typename Word>
__global__ void __launch_bounds__(kThreads)
    unpad_rows_kernel(const __grid_constant__ PadLaunch p) {
  constexpr int kElements = sizeof(Word) / sizeof(uint16_t);
  constexpr int kWords = 8 / kElements;
  const int64_t first =
      (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * 8;
  const int64_t size = p.rows * p.inner;
  if (first >= size) {
    return;
  }
  const auto* from = reinterpret_cast<const uint16_t*>(p.from);
  int64_t row = first / p.inner;
  int column = static_cast<int>(first - row * p.inner);
  alignas(16) Word words[kWords];
#pragma unroll
  for (int i = 0; i < kWords; ++i) {
    words[i] =
        row < p.rows ? word_at<Word>(from, row * p.padded + column) : Word{0};
    column += kElements;
    if (column >= p.inner) {
      column = 0;
      ++row;
    }
  }
  if (first + 8 <= size) {
    *reinterpret_cast<uint4*>(p.to + first) =
        *reinterpret_cast<const uint4*>(words);
    return;
  }
  auto* to = reinterpret_cast<Word*>(p.to + first);
  for (int i = 0; first + i * kElements < size; ++i) {
    to[i] = words[i];
  }
}

}  // namespace

cudaError_t pad_rows(const PadLaunch& p, cudaStream_t stream) {
  const unsigned blocks = ceil_div(p.rows * (p.padded / 8), kThreads);
  if (p.inner % 2 == 0) {
    pad_rows_kernel<uint32_t><<<blocks, kThreads, 0, stream>>>(p);
  } else {
    pad_rows_kernel<uint16_t><<<blocks, kThreads, 0, stream>>>(p);
  }
  return cudaGetLastError();
}

cudaError_t unpad_rows(const PadLaunch& p, cudaStream_t stream) {
  const unsigned blocks = ceil_div(p.rows * p.inner, int64_t{8} * kThreads);
  if (p.inner % 2 == 0) {
    unpad_rows_kernel<uint32_t><<<blocks, kThreads, 0, stream>>>(p);
  } else {
    unpad_rows_kernel<uint16_t><<<blocks, kThreads, 0, stream>>>(p);
  }
  return cudaGetLastError();
}

}  // namespace einforge::kernels::cuda
