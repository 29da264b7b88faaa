#include "einforge/kernels/cuda/pad_rows.h"

#include <limits>

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

// A thread writes 16 bytes. Index holds the number of elements: 64 bits divide
// slowly.
template <typename Word, typename Index>
__global__ void __launch_bounds__(kThreads)
    pad_rows_kernel(const __grid_constant__ PadLaunch p) {
  constexpr int kElements = sizeof(Word) / sizeof(uint16_t);
  constexpr int kWords = 8 / kElements;
  const Index v = static_cast<Index>(blockIdx.x) * kThreads + threadIdx.x;
  const auto vectors = static_cast<Index>(p.padded / 8);
  const Index row = v / vectors;
  if (row >= static_cast<Index>(p.rows)) {
    return;
  }
  const int first = static_cast<int>(v - row * vectors) * 8;
  const auto* from = reinterpret_cast<const uint16_t*>(p.from);
  alignas(16) Word words[kWords];
#pragma unroll
  for (int i = 0; i < kWords; ++i) {
    const int column = first + i * kElements;
    words[i] =
        column < p.inner
            ? word_at<Word>(from, static_cast<int64_t>(row) * p.inner + column)
            : Word{0};
  }
  reinterpret_cast<uint4*>(p.to)[v] = *reinterpret_cast<const uint4*>(words);
}

template <typename Word, typename Index>
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
  int64_t row = static_cast<Index>(first) / static_cast<Index>(p.inner);
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
#pragma unroll
  for (int i = 0; i < kWords; ++i) {
    if (first + i * kElements < size) {
      to[i] = words[i];
    }
  }
}

// Calls run with the types of a word and of an index.
template <typename Run>
void with_types(const PadLaunch& p, const Run& run) {
  const auto with_index = [&]<typename Word>() {
    if (p.rows * p.padded <= std::numeric_limits<uint32_t>::max() - kThreads) {
      run.template operator()<Word, uint32_t>();
    } else {
      run.template operator()<Word, uint64_t>();
    }
  };
  if (p.inner % 2 == 0) {
    with_index.template operator()<uint32_t>();
  } else {
    with_index.template operator()<uint16_t>();
  }
}

}  // namespace

cudaError_t pad_rows(const PadLaunch& p, cudaStream_t stream) {
  const unsigned blocks = ceil_div(p.rows * (p.padded / 8), kThreads);
  with_types(p, [&]<typename Word, typename Index>() {
    pad_rows_kernel<Word, Index><<<blocks, kThreads, 0, stream>>>(p);
  });
  return cudaGetLastError();
}

cudaError_t unpad_rows(const PadLaunch& p, cudaStream_t stream) {
  const unsigned blocks = ceil_div(p.rows * p.inner, int64_t{8} * kThreads);
  with_types(p, [&]<typename Word, typename Index>() {
    unpad_rows_kernel<Word, Index><<<blocks, kThreads, 0, stream>>>(p);
  });
  return cudaGetLastError();
}

}  // namespace einforge::kernels::cuda
