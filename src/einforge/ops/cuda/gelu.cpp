#include "einforge/ops/cuda/gelu.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/autograd.h>
#include <torch/types.h>

#include <limits>
#include <optional>

#include "einforge/kernels/cuda/gelu.h"
#include "einforge/ops/autocast_dtype.h"
#include "einforge/ops/cuda/btt_operands.h"
#include "einforge/ops/cuda/device.h"
#include "einforge/ops/optional_tensor.h"

namespace einforge::ops::fused {
namespace {

namespace ek = kernels::cuda;
using torch::Tensor;
using torch::autograd::variable_list;

bool takes_dtype(torch::ScalarType dtype) {
  return dtype == torch::kFloat32 || dtype == torch::kBFloat16;
}

// Calls run with a null pointer to the elements of a tensor.
template <typename Run>
void with_element(const Tensor& tensor, const Run& run) {
  if (tensor.scalar_type() == torch::kFloat32) {
    run(static_cast<float*>(nullptr));
  } else {
    run(static_cast<__nv_bfloat16*>(nullptr));
  }
}

template <typename Element>
const Element* data(const Tensor& tensor) {
  return static_cast<const Element*>(tensor.const_data_ptr());
}

template <typename Element>
ek::GeluRows<Element> rows_of(const Tensor& x, const Tensor& bias) {
  return {
      .x = data<Element>(x),
      .bias = bias.defined() ? bias.const_data_ptr<float>() : nullptr,
      .rows = x.numel() / x.size(-1),
      .width = static_cast<int>(x.size(-1))};
}

// Saves x and the bias.
class FusedGelu : public torch::autograd::Function<FusedGelu> {
 public:
  static Tensor forward(
      torch::autograd::AutogradContext* context,
      const Tensor& x,
      const std::optional<Tensor>& bias) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    const c10::cuda::CUDAGuard device(x.device());
    const Tensor from = btt::dense(x);
    const Tensor shift = btt::dense(bias.value_or(Tensor()));
    Tensor y = torch::empty_like(from);
    with_element(from, [&]<typename Element>(Element*) {
      C10_CUDA_CHECK(ek::gelu(
          rows_of<Element>(from, shift),
          static_cast<Element*>(y.mutable_data_ptr()),
          c10::cuda::getCurrentCUDAStream()));
    });
    context->save_for_backward({x, bias.value_or(Tensor())});
    return y;
  }

  static variable_list backward(
      torch::autograd::AutogradContext* context, const variable_list& grads) {
    variable_list result(2);
    if (!grads[0].defined()) {
      return result;
    }
    const variable_list saved = context->get_saved_variables();
    const bool sums = saved[1].defined() && context->needs_input_grad(1);
    if (torch::GradMode::is_enabled()) {  // differentiable itself
      differentiable(saved, grads[0], result);
      return result;
    }
    const c10::cuda::CUDAGuard device(saved[0].device());
    const Tensor x = btt::dense(saved[0]);
    const Tensor bias = btt::dense(saved[1]);
    const Tensor dy = btt::dense(grads[0].to(x.scalar_type()));
    result[0] = torch::empty_like(x);
    Tensor partials;
    if (sums) {
      result[1] = torch::empty_like(bias);
      partials = btt::workspace(
          x, ek::gelu_backward_bytes(static_cast<int>(x.size(-1))));
    }
    with_element(x, [&]<typename Element>(Element*) {
      C10_CUDA_CHECK(ek::gelu_backward(
          rows_of<Element>(x, bias),
          data<Element>(dy),
          sums ? partials.mutable_data_ptr() : nullptr,
          static_cast<Element*>(result[0].mutable_data_ptr()),
          sums ? result[1].mutable_data_ptr<float>() : nullptr,
          c10::cuda::getCurrentCUDAStream()));
    });
    return result;
  }

 private:
  static void differentiable(
      const variable_list& saved, const Tensor& dy, variable_list& result) {
    const c10::impl::ExcludeDispatchKeyGuard guard(
        c10::autocast_dispatch_keyset);
    const Tensor v = saved[1].defined()
                         ? saved[0].to(torch::kFloat32) + saved[1]
                         : saved[0].to(torch::kFloat32);
    for (std::size_t i = 0; i < result.size(); ++i) {
      if (saved[i].defined() && saved[i].requires_grad()) {
        result[i] = torch::autograd::grad(
            {torch::gelu(v, "tanh")},
            {saved[i]},
            {dy.to(torch::kFloat32)},
            /*retain_graph=*/true,
            /*create_graph=*/true)[0];
      }
    }
  }
};

}  // namespace

bool takes_gelu(const Tensor& x, const Tensor& bias) {
  return architecture_supported(x) && takes_dtype(x.scalar_type()) &&
         x.dim() > 0 && x.numel() > 0 &&
         x.size(-1) <= std::numeric_limits<int>::max() &&
         (!bias.defined() ||
          (bias.scalar_type() == torch::kFloat32 && bias.dim() == 1 &&
           bias.size(0) == x.size(-1) && bias.device() == x.device()));
}

bool gelu_adds_bias(const Tensor& x) {
  return architecture_supported(x) && takes_dtype(autocast_dtype(x));
}

Tensor gelu(const Tensor& x, const Tensor& bias) {
  return FusedGelu::apply(x, optional(bias));
}

}  // namespace einforge::ops::fused
