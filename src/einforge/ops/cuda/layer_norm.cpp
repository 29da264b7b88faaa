#include "einforge/ops/cuda/layer_norm.h"

#include <ATen/autocast_mode.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/autograd.h>
#include <torch/types.h>

#include "einforge/kernels/cuda/row_norm.h"
#include "einforge/ops/cuda/btt_operands.h"
#include "einforge/ops/cuda/device.h"

namespace einforge::ops::fused {
namespace {

namespace ek = kernels::cuda;
using torch::Tensor;
using torch::autograd::variable_list;

ek::RowNormRows rows_of(const Tensor& x, const Tensor& gain, double epsilon) {
  return {
      .x = btt::data(x),
      .gain = gain.const_data_ptr<float>(),
      .rows = x.numel() / x.size(-1),
      .width = static_cast<int>(x.size(-1)),
      .epsilon = static_cast<float>(epsilon)};
}

// Saves x and the gain.
class ShortLayerNorm : public torch::autograd::Function<ShortLayerNorm> {
 public:
  static Tensor forward(
      torch::autograd::AutogradContext* context,
      const Tensor& x,
      const Tensor& gain,
      double epsilon) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    const c10::cuda::CUDAGuard device(x.device());
    const Tensor from = btt::aligned(x.contiguous());
    const Tensor scale = gain.contiguous();
    context->save_for_backward({x, gain});
    context->saved_data["epsilon"] = epsilon;
    Tensor y = torch::empty_like(from);
    C10_CUDA_CHECK(ek::row_norm(
        rows_of(from, scale, epsilon),
        btt::mutable_data(y),
        c10::cuda::getCurrentCUDAStream()));
    return y;
  }

  static variable_list backward(
      torch::autograd::AutogradContext* context, const variable_list& grads) {
    if (!grads[0].defined()) {
      return variable_list(3);
    }
    const variable_list saved = context->get_saved_variables();
    const double epsilon = context->saved_data["epsilon"].toDouble();
    if (torch::GradMode::is_enabled()) {  // differentiable itself
      const c10::impl::ExcludeDispatchKeyGuard guard(
          c10::autocast_dispatch_keyset);
      const Tensor y = torch::layer_norm(
          saved[0].to(torch::kFloat32),
          {saved[0].size(-1)},
          saved[1],
          {},
          epsilon);
      const variable_list found = torch::autograd::grad(
          {y},
          {saved[0], saved[1]},
          {grads[0].to(torch::kFloat32)},
          /*retain_graph=*/true,
          /*create_graph=*/true);
      return {found[0], found[1], Tensor()};
    }
    const c10::cuda::CUDAGuard device(saved[0].device());
    const Tensor x = btt::aligned(saved[0].contiguous());
    const Tensor gain = saved[1].contiguous();
    const Tensor dy = btt::aligned(grads[0].to(x.scalar_type()).contiguous());
    Tensor dx = torch::empty_like(x);
    Tensor dgain = torch::empty_like(gain);
    const ek::RowNormRows rows = rows_of(x, gain, epsilon);
    const Tensor partials =
        btt::workspace(x, ek::row_norm_backward_bytes(rows.width));
    C10_CUDA_CHECK(ek::row_norm_backward(
        rows,
        btt::data(dy),
        partials.mutable_data_ptr(),
        btt::mutable_data(dx),
        dgain.mutable_data_ptr<float>(),
        c10::cuda::getCurrentCUDAStream()));
    return {dx, dgain, Tensor()};
  }
};

}  // namespace

bool takes_layer_norm(const Tensor& x, const Tensor& gain, const Tensor& bias) {
  return architecture_supported(x) && x.scalar_type() == torch::kBFloat16 &&
         gain.scalar_type() == torch::kFloat32 && !bias.defined() &&
         x.numel() > 0 && ek::row_norm_supports(x.size(-1));
}

Tensor layer_norm(const Tensor& x, const Tensor& gain, double epsilon) {
  return ShortLayerNorm::apply(x, gain, epsilon);
}

}  // namespace einforge::ops::fused
