#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

// A core whose root mean square is capped, with a gain:
//
//   y = gain core / max(1, rms(core) / max_rms)
//
// The order of elements in memory means nothing, as long as all operands have
// the same; sums have a fixed order and are float64, in which squares neither
// overflow nor underflow.
namespace einforge::kernels::cuda {

// @tparam Core float or __nv_bfloat16
template <typename Core>
struct RmsCapLaunch {
  const Core* core = nullptr;  // aligned to 16 bytes, as all operands are
  int64_t size = 0;            // above 0
  const Core* gain = nullptr;  // one element on the device, or null for 1
  double max_rms = 0;
  void* workspace = nullptr;  // of rms_cap_bytes()
};

// Bytes of the partial sums.
[[nodiscard]] size_t rms_cap_bytes();

// @tparam Element float or __nv_bfloat16; with a core of the latter that too
template <typename Core, typename Element>
[[nodiscard]] cudaError_t rms_cap(
    const RmsCapLaunch<Core>& launch, Element* y, cudaStream_t stream);

// @param grad of y
// @param dgain one element, or null
template <typename Core, typename Element>
[[nodiscard]] cudaError_t rms_cap_backward(
    const RmsCapLaunch<Core>& launch,
    const Element* grad,
    Core* dcore,
    Core* dgain,
    cudaStream_t stream);

}  // namespace einforge::kernels::cuda
