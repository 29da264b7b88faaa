#include "einforge/ops/cuda/residual_norm.h"

#include <ATen/autocast_mode.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/autograd.h>
#include <torch/types.h>

#include <optional>

#include "einforge/kernels/cuda/residual_norm.h"
#include "einforge/ops/cuda/btt_operands.h"
#include "einforge/ops/cuda/device.h"

namespace einforge::ops::fused {
namespace {

namespace ek = kernels::cuda;
using torch::Tensor;
using torch::autograd::variable_list;

ek::ResidualNormLaunch launch_of(
    const Tensor& sum, const Tensor& gain, double scale) {
  return {
      .rows = sum.numel() / sum.size(-1),
      .width = static_cast<int>(sum.size(-1)),
      .gain = gain.const_data_ptr<float>(),
      .scale = static_cast<float>(scale)};
}

Tensor dense(const Tensor& tensor) {
  return tensor.defined() ? btt::aligned(tensor.contiguous()) : tensor;
}

// Saves the sum, the moments of its rows and the gain. Outputs are what was
// normed and, with a branch, the sum.
class FusedResidualNorm : public torch::autograd::Function<FusedResidualNorm> {
 public:
  static variable_list forward(
      torch::autograd::AutogradContext* context,
      const Tensor& x,
      const Tensor& gain,
      const std::optional<Tensor>& branch,
      const std::optional<Tensor>& bias,
      double scale,
      double epsilon) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    const c10::cuda::CUDAGuard device(x.device());
    const Tensor from = dense(x);
    const Tensor added = dense(branch.value_or(Tensor()));
    const Tensor factor = dense(gain);
    const Tensor shift = dense(bias.value_or(Tensor()));
    const Tensor sum = added.defined() ? torch::empty_like(from) : x;
    const Tensor normed =
        torch::empty_like(from, from.options().dtype(torch::kBFloat16));
    const Tensor moments =
        torch::empty({from.numel() / from.size(-1), 2}, from.options());
    ek::ResidualNormLaunch launch = launch_of(from, factor, scale);
    launch.epsilon = static_cast<float>(epsilon);
    launch.bias = shift.defined() ? shift.const_data_ptr<float>() : nullptr;
    C10_CUDA_CHECK(ek::residual_norm(
        launch,
        from.const_data_ptr<float>(),
        added.defined() ? btt::data(added) : nullptr,
        added.defined() ? sum.mutable_data_ptr<float>() : nullptr,
        btt::mutable_data(normed),
        reinterpret_cast<float2*>(moments.mutable_data_ptr<float>()),
        c10::cuda::getCurrentCUDAStream()));
    context->set_materialize_grads(false);
    context->save_for_backward({sum, moments, gain, bias.value_or(Tensor())});
    context->saved_data["scale"] = scale;
    context->saved_data["epsilon"] = epsilon;
    context->saved_data["adds"] = added.defined();
    return added.defined() ? variable_list{normed, sum} : variable_list{normed};
  }

  static variable_list backward(
      torch::autograd::AutogradContext* context, const variable_list& grads) {
    const variable_list saved = context->get_saved_variables();
    const double scale = context->saved_data["scale"].toDouble();
    const bool adds = context->saved_data["adds"].toBool();
    const Tensor dsum = adds ? grads[1] : Tensor();
    // Of x, gain, branch and bias.
    variable_list result(6);
    if (!grads[0].defined() || torch::GradMode::is_enabled()) {
      result[0] = dsum;
      if (grads[0].defined()) {  // differentiable itself
        differentiable(
            saved, grads[0], context->saved_data["epsilon"].toDouble(), result);
      }
      if (adds && result[0].defined()) {
        result[2] = (scale * result[0]).to(torch::kBFloat16);
      }
      return result;
    }
    const c10::cuda::CUDAGuard device(saved[0].device());
    const Tensor sum = dense(saved[0]);
    const Tensor gain = dense(saved[2]);
    const Tensor dy = dense(grads[0]);
    const Tensor other = dense(dsum);
    const Tensor dx = torch::empty_like(sum);
    const Tensor dbranch = adds ? torch::empty_like(dy) : Tensor();
    const Tensor affine = torch::empty({2, sum.size(-1)}, gain.options());
    const ek::ResidualNormLaunch launch = launch_of(sum, gain, scale);
    const Tensor partials =
        btt::workspace(sum, ek::residual_norm_backward_bytes(launch.width));
    C10_CUDA_CHECK(ek::residual_norm_backward(
        launch,
        sum.const_data_ptr<float>(),
        reinterpret_cast<const float2*>(saved[1].const_data_ptr<float>()),
        other.defined() ? other.const_data_ptr<float>() : nullptr,
        btt::data(dy),
        partials.mutable_data_ptr(),
        {.x = dx.mutable_data_ptr<float>(),
         .branch = adds ? btt::mutable_data(dbranch) : nullptr,
         .affine = affine.mutable_data_ptr<float>()},
        c10::cuda::getCurrentCUDAStream()));
    result[0] = dx;
    result[1] = affine[0];
    result[2] = dbranch;
    result[3] = saved[3].defined() ? affine[1] : Tensor();
    return result;
  }

 private:
  // Adds to the gradient of the sum, result[0].
  static void differentiable(
      const variable_list& saved,
      const Tensor& dy,
      double epsilon,
      variable_list& result) {
    const c10::impl::ExcludeDispatchKeyGuard guard(
        c10::autocast_dispatch_keyset);
    // Of views, since the sum may be this node's own output and the gain its
    // input: asked for those, the engine would come back here.
    const Tensor& sum = saved[0];
    const Tensor gain = saved[2].view_as(saved[2]);
    const Tensor bias =
        saved[3].defined() ? saved[3].view_as(saved[3]) : Tensor();
    variable_list inputs{sum, gain};
    if (bias.defined()) {
      inputs.push_back(bias);
    }
    const variable_list found = torch::autograd::grad(
        {torch::layer_norm(sum, {sum.size(-1)}, gain, bias, epsilon)},
        inputs,
        {dy.to(torch::kFloat32)},
        /*retain_graph=*/true,
        /*create_graph=*/true,
        /*allow_unused=*/true);
    result[0] = result[0].defined() ? result[0] + found[0] : found[0];
    result[1] = found[1];
    result[3] = bias.defined() ? found[2] : Tensor();
  }
};

}  // namespace

bool takes_residual_norm(
    const Tensor& x,
    const Tensor& branch,
    const Tensor& gain,
    const Tensor& bias) {
  const auto takes = [&](const Tensor& tensor) {
    return !tensor.defined() || (tensor.scalar_type() == torch::kFloat32 &&
                                 tensor.device() == x.device());
  };
  const auto fits = [&](const Tensor& tensor) {
    return !tensor.defined() ||
           (tensor.dim() == 1 && tensor.size(0) == x.size(-1));
  };
  return architecture_supported(x) &&
         at::autocast::is_autocast_enabled(torch::kCUDA) &&
         at::autocast::get_autocast_dtype(torch::kCUDA) == torch::kBFloat16 &&
         takes(x) && takes(gain) && takes(bias) && x.numel() > 0 &&
         fits(gain) && fits(bias) && ek::residual_norm_supports(x.size(-1)) &&
         (!branch.defined() ||
          (branch.scalar_type() == torch::kBFloat16 &&
           branch.device() == x.device() && branch.sizes() == x.sizes()));
}

ResidualNorm residual_norm(
    const Tensor& x,
    const Tensor& branch,
    double scale,
    const Tensor& gain,
    const Tensor& bias,
    double epsilon) {
  // An argument may be missing, but not an undefined tensor.
  const auto optional = [](const Tensor& tensor) {
    return tensor.defined() ? std::make_optional(tensor) : std::nullopt;
  };
  const variable_list found = FusedResidualNorm::apply(
      x, gain, optional(branch), optional(bias), scale, epsilon);
  return {branch.defined() ? found[1] : x, found[0]};
}

}  // namespace einforge::ops::fused
