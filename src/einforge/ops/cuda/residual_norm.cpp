#include "einforge/ops/cuda/residual_norm.h"

#include <ATen/autocast_mode.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/autograd.h>
#include <torch/types.h>

#include <cstdint>
#include <optional>
#include <utility>

#include "einforge/kernels/cuda/residual_norm.h"
#include "einforge/ops/cuda/btt_operands.h"
#include "einforge/ops/cuda/device.h"
#include "einforge/ops/optional_tensor.h"

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

// Saves the sum, the moments of its rows, the gain and the bias. Outputs are
// what was normed, once for each reader, and the sum.
class FusedResidualNorm : public torch::autograd::Function<FusedResidualNorm> {
 public:
  static variable_list forward(
      torch::autograd::AutogradContext* context,
      const Tensor& x,
      const Tensor& gain,
      const std::optional<Tensor>& branch,
      const std::optional<Tensor>& branch_bias,
      const std::optional<Tensor>& bias,
      double scale,
      double epsilon,
      std::int64_t readers) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    const c10::cuda::CUDAGuard device(x.device());
    const Tensor from = btt::dense(x);
    const Tensor added = btt::dense(branch.value_or(Tensor()));
    const Tensor factor = btt::dense(gain);
    const Tensor branch_shift = btt::dense(branch_bias.value_or(Tensor()));
    const Tensor shift = btt::dense(bias.value_or(Tensor()));
    const Tensor sum = added.defined() ? torch::empty_like(from) : x;
    const Tensor normed =
        torch::empty_like(from, from.options().dtype(torch::kBFloat16));
    const Tensor moments =
        torch::empty({from.numel() / from.size(-1), 2}, from.options());
    ek::ResidualNormLaunch launch = launch_of(from, factor, scale);
    launch.epsilon = static_cast<float>(epsilon);
    const auto pointer = [](const Tensor& tensor) {
      return tensor.defined() ? tensor.const_data_ptr<float>() : nullptr;
    };
    launch.bias = pointer(shift);
    launch.branch_bias = pointer(branch_shift);
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
    context->saved_data["readers"] = readers;
    context->saved_data["adds"] = added.defined();
    context->saved_data["adds_bias"] = branch_shift.defined();
    variable_list outputs{normed};
    while (outputs.size() < static_cast<std::size_t>(readers)) {
      outputs.push_back(normed.alias());
    }
    // Where nothing is added, too, so that what else it goes to comes here.
    outputs.push_back(added.defined() ? sum : x.alias());
    return outputs;
  }

  static variable_list backward(
      torch::autograd::AutogradContext* context, const variable_list& grads) {
    const variable_list saved = context->get_saved_variables();
    const double scale = context->saved_data["scale"].toDouble();
    const bool adds = context->saved_data["adds"].toBool();
    const bool adds_bias = context->saved_data["adds_bias"].toBool();
    const Tensor& dsum = grads.back();
    variable_list dys;
    for (std::int64_t i = 0; i < context->saved_data["readers"].toInt(); ++i) {
      const Tensor& dy = grads[static_cast<std::size_t>(i)];
      if (dy.defined()) {
        dys.push_back(dy);
      }
    }
    // Of x, gain, branch, its bias and the bias.
    variable_list result(8);
    if (dys.empty() || torch::GradMode::is_enabled()) {
      result[0] = dsum;
      if (!dys.empty()) {  // differentiable itself
        differentiable(
            saved, dys, context->saved_data["epsilon"].toDouble(), result);
      }
      if (adds && result[0].defined()) {
        result[2] = (scale * result[0]).to(torch::kBFloat16);
        if (adds_bias) {
          result[3] =
              scale * result[0].reshape({-1, result[0].size(-1)}).sum(0);
        }
      }
      return result;
    }
    const c10::cuda::CUDAGuard device(saved[0].device());
    const Tensor sum = btt::dense(saved[0]);
    const Tensor gain = btt::dense(saved[2]);
    dys = added(std::move(dys));
    ek::ResidualNormReaders readers;
    for (const Tensor& dy : dys) {
      readers.dy[readers.count++] = btt::data(dy);
    }
    const Tensor other = btt::dense(dsum);
    const Tensor dx = torch::empty_like(sum);
    const Tensor dbranch = adds ? torch::empty_like(dys[0]) : Tensor();
    const Tensor affine = torch::empty({3, sum.size(-1)}, gain.options());
    const ek::ResidualNormLaunch launch = launch_of(sum, gain, scale);
    const Tensor partials =
        btt::workspace(sum, ek::residual_norm_backward_bytes(launch.width));
    C10_CUDA_CHECK(ek::residual_norm_backward(
        launch,
        sum.const_data_ptr<float>(),
        reinterpret_cast<const float2*>(saved[1].const_data_ptr<float>()),
        other.defined() ? other.const_data_ptr<float>() : nullptr,
        readers,
        partials.mutable_data_ptr(),
        {.x = dx.mutable_data_ptr<float>(),
         .branch = adds ? btt::mutable_data(dbranch) : nullptr,
         .affine = affine.mutable_data_ptr<float>()},
        c10::cuda::getCurrentCUDAStream()));
    result[0] = dx;
    result[1] = affine[0];
    result[2] = dbranch;
    result[3] = adds_bias ? affine[2] : Tensor();
    result[4] = saved[3].defined() ? affine[1] : Tensor();
    return result;
  }

 private:
  // As many as the kernel takes, without gaps.
  static variable_list added(variable_list dys) {
    for (Tensor& dy : dys) {
      dy = btt::dense(dy);
    }
    while (dys.size() == 2 || dys.size() > ek::ResidualNormReaders::kMost) {
      const Tensor last = dys.back();
      dys.pop_back();
      dys.back() = dys.back() + last;
    }
    return dys;
  }

  // Adds to the gradient of the sum, result[0].
  static void differentiable(
      const variable_list& saved,
      const variable_list& dys,
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
    Tensor dy = dys[0].to(torch::kFloat32);
    for (std::size_t i = 1; i < dys.size(); ++i) {
      dy = dy + dys[i];
    }
    variable_list inputs{sum, gain};
    if (bias.defined()) {
      inputs.push_back(bias);
    }
    const variable_list found = torch::autograd::grad(
        {torch::layer_norm(sum, {sum.size(-1)}, gain, bias, epsilon)},
        inputs,
        {dy},
        /*retain_graph=*/true,
        /*create_graph=*/true,
        /*allow_unused=*/true);
    result[0] = result[0].defined() ? result[0] + found[0] : found[0];
    result[1] = found[1];
    result[4] = bias.defined() ? found[2] : Tensor();
  }
};

}  // namespace

bool takes_residual_norm(
    const Tensor& x,
    const Unbiased& branch,
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
         takes(x) && takes(gain) && takes(bias) && takes(branch.bias) &&
         x.numel() > 0 && fits(gain) && fits(bias) && fits(branch.bias) &&
         ek::residual_norm_supports(x.size(-1)) &&
         (!branch.y.defined() ||
          (branch.y.scalar_type() == torch::kBFloat16 &&
           branch.y.device() == x.device() && branch.y.sizes() == x.sizes()));
}

ResidualNorm residual_norm(
    const Tensor& x,
    const Unbiased& branch,
    double scale,
    const Tensor& gain,
    const Tensor& bias,
    double epsilon,
    std::size_t readers) {
  // An argument may be missing, but not an undefined tensor.
  variable_list found = FusedResidualNorm::apply(
      x,
      gain,
      optional(branch.y),
      optional(branch.bias),
      optional(bias),
      scale,
      epsilon,
      static_cast<std::int64_t>(readers));
  Tensor sum = std::move(found.back());
  found.resize(readers);
  return {std::move(sum), std::move(found)};
}

}  // namespace einforge::ops::fused
