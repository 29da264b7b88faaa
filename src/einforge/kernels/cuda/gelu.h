#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

// What stands between two layers: the bias of the first and GELU, in its tanh
// form,
//
//   y = gelu(x + bias),   gelu(v) = v / (1 + exp(-w)),
//   w = sqrt(8 / pi) (v + 0.044715 v^3)
//
// Elements are float or __nv_bfloat16, with float32 between.
namespace einforge::kernels::cuda {

template <typename Element>
struct GeluRows {
  const Element* x = nullptr;   // (rows, width), aligned to 16 bytes
  const float* bias = nullptr;  // (width) or null
  int64_t rows = 0;             // above 0
  int width = 0;                // above 0
};

// @param y (rows, width), aligned as x
template <typename Element>
[[nodiscard]] cudaError_t gelu(
    const GeluRows<Element>& rows, Element* y, cudaStream_t stream);

// Bytes of the partial sums; none for no sums.
[[nodiscard]] size_t gelu_backward_bytes(int width);

// dx = gelu'(x + bias) dy, aligned as x; and its sums over rows before they are
// rounded, in a fixed order, in the same pass.
//
// @param dbias (width) or null, as may then be the workspace
template <typename Element>
[[nodiscard]] cudaError_t gelu_backward(
    const GeluRows<Element>& rows,
    const Element* dy,
    void* workspace,
    Element* dx,
    float* dbias,
    cudaStream_t stream);

}  // namespace einforge::kernels::cuda
