#include "einforge/ops/cuda/rms_cap.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <type_traits>

#include "einforge/kernels/cuda/rms_cap.h"
#include "einforge/ops/cuda/btt_operands.h"
#include "einforge/ops/cuda/device.h"

namespace einforge::ops::fused {
namespace {

namespace ek = kernels::cuda;
using torch::Tensor;

// Elements as the kernels name them.
template <typename Element>
const Element* data(const Tensor& tensor) {
  if constexpr (std::is_same_v<Element, float>) {
    return tensor.const_data_ptr<float>();
  } else {
    return btt::data(tensor);
  }
}
template <typename Element>
Element* mutable_data(const Tensor& tensor) {
  if constexpr (std::is_same_v<Element, float>) {
    return tensor.mutable_data_ptr<float>();
  } else {
    return btt::mutable_data(tensor);
  }
}

// Calls run<Core, Element>() with the types of a core and of what is made of
// it.
template <typename Run>
void for_types(torch::ScalarType core, torch::ScalarType made, const Run& run) {
  if (core == torch::kBFloat16) {
    C10_CUDA_CHECK((run.template operator()<__nv_bfloat16, __nv_bfloat16>()));
  } else if (made == torch::kBFloat16) {
    C10_CUDA_CHECK((run.template operator()<float, __nv_bfloat16>()));
  } else {
    C10_CUDA_CHECK((run.template operator()<float, float>()));
  }
}

template <typename Core>
ek::RmsCapLaunch<Core> launch_of(
    const Tensor& core,
    const std::optional<Tensor>& gain,
    double max_rms,
    const Tensor& workspace) {
  return {
      .core = data<Core>(core),
      .size = core.numel(),
      .gain = gain ? data<Core>(*gain) : nullptr,
      .max_rms = max_rms,
      .workspace = workspace.mutable_data_ptr()};
}

}  // namespace

bool takes_rms_cap(
    const Tensor& core,
    const std::optional<Tensor>& gain,
    torch::ScalarType dtype) {
  return architecture_supported(core) &&
         (dtype == torch::kBFloat16 || dtype == torch::kFloat32) &&
         (core.scalar_type() == torch::kFloat32 ||
          (core.scalar_type() == torch::kBFloat16 &&
           dtype == torch::kBFloat16)) &&
         core.numel() > 0 && core.is_non_overlapping_and_dense() &&
         (!gain || (gain->scalar_type() == core.scalar_type() &&
                    gain->device() == core.device()));
}

Tensor rms_cap(
    const Tensor& given,
    const std::optional<Tensor>& gain,
    double max_rms,
    torch::ScalarType dtype) {
  const c10::cuda::CUDAGuard guard(given.device());
  const auto stream = c10::cuda::getCurrentCUDAStream();
  const Tensor core = btt::aligned(given);
  const Tensor partials = btt::workspace(core, ek::rms_cap_bytes());
  Tensor y = torch::empty_like(core, core.options().dtype(dtype));
  for_types(core.scalar_type(), dtype, [&]<typename Core, typename Element>() {
    return ek::rms_cap(
        launch_of<Core>(core, gain, max_rms, partials),
        mutable_data<Element>(y),
        stream);
  });
  return y;
}

std::tuple<Tensor, Tensor> rms_cap_backward(
    const Tensor& given_grad,
    const Tensor& given,
    const std::optional<Tensor>& gain,
    double max_rms) {
  const c10::cuda::CUDAGuard guard(given.device());
  const auto stream = c10::cuda::getCurrentCUDAStream();
  const Tensor core = btt::aligned(given);
  Tensor grad = btt::aligned(given_grad);
  if (grad.strides() != core.strides()) {
    grad = torch::empty_like(core, grad.options()).copy_(grad);
  }
  const Tensor partials = btt::workspace(core, ek::rms_cap_bytes());
  Tensor grad_core = torch::empty_like(core);
  Tensor grad_gain = gain ? torch::empty_like(*gain) : core.new_empty({0});
  for_types(
      core.scalar_type(),
      grad.scalar_type(),
      [&]<typename Core, typename Element>() {
        return ek::rms_cap_backward(
            launch_of<Core>(core, gain, max_rms, partials),
            data<Element>(grad),
            mutable_data<Core>(grad_core),
            gain ? mutable_data<Core>(grad_gain) : nullptr,
            stream);
      });
  return {grad_core, grad_gain};
}

}  // namespace einforge::ops::fused
