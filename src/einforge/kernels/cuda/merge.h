#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

// The dense matrix that two cores make, and what its gradient is to them, in
// bfloat16 with sums in float32:
//
//   w[d,e,f,a,b,g] = sum_r a[d,f,r,a,g] b[e,f,r,b,g]
//
// gamma, which is innermost in w, is a batch of that product, which is why no
// batched matmul can write w as it lies.
namespace einforge::kernels::cuda {

struct MergeSizes {
  int alpha = 1;
  int beta = 1;
  int gamma = 1;
  int delta = 1;
  int epsilon = 1;
  int phi = 1;
  int rho = 1;

  [[nodiscard]] constexpr int64_t d_in() const {
    return static_cast<int64_t>(alpha) * beta * gamma;
  }
  [[nodiscard]] constexpr int64_t d_out() const {
    return static_cast<int64_t>(delta) * epsilon * phi;
  }
};

// Whether gamma fills vectors of 16 bytes.
[[nodiscard]] bool merge_supports(const MergeSizes& sizes);

// Everything is contiguous and aligned to 16 bytes, gamma innermost.
//
// @param a (delta, phi, rho, alpha, gamma)
// @param b (epsilon, phi, rho, beta, gamma)
// @param w (d_out, d_in)
[[nodiscard]] cudaError_t merge_cores(
    const MergeSizes& sizes,
    const __nv_bfloat16* a,
    const __nv_bfloat16* b,
    __nv_bfloat16* w,
    cudaStream_t stream);

// Of a core (in, gamma, out, phi, rho), in elements.
struct MergeCoreStrides {
  int64_t in = 0;
  int64_t gamma = 0;
  int64_t out = 0;
  int64_t phi = 0;
  int64_t rho = 0;
};

struct MergeCore {
  const __nv_bfloat16* data = nullptr;
  MergeCoreStrides strides;
};

struct MergeCoreGradient {
  __nv_bfloat16* data = nullptr;  // null where it is not wanted
  MergeCoreStrides strides;
};

// The gradient of each core from that of w and the other core:
//
//   grad_a[d,f,r,a,g] = sum_{e,b} grad_w[d,e,f,a,b,g] b[e,f,r,b,g]
//   grad_b[e,f,r,b,g] = sum_{d,a} grad_w[d,e,f,a,b,g] a[d,f,r,a,g]
//
// in an order of summation that depends on sizes alone.
//
// @param grad_w (d_out, d_in), contiguous and aligned to 16 bytes
[[nodiscard]] cudaError_t merge_gradients(
    const MergeSizes& sizes,
    const __nv_bfloat16* grad_w,
    const MergeCore& a,
    const MergeCore& b,
    const MergeCoreGradient& grad_a,
    const MergeCoreGradient& grad_b,
    cudaStream_t stream);

}  // namespace einforge::kernels::cuda
