#include "einforge/ops/cuda/short_attention.h"

#include <ATen/autocast_mode.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/autograd.h>
#include <torch/types.h>

#include <limits>
#include <optional>
#include <utility>

#include "einforge/kernels/cuda/short_attention.h"
#include "einforge/ops/cuda/btt_operands.h"
#include "einforge/ops/cuda/device.h"
#include "einforge/ops/optional_tensor.h"

namespace einforge::ops::fused {
namespace {

namespace ek = kernels::cuda;
using torch::Tensor;
using torch::autograd::variable_list;

// q, k, v, their biases, which may be undefined, and the gains of q and k.
constexpr std::size_t kInputs = 8;

ek::ShortAttention operands_of(
    const variable_list& given, double scale, double epsilon) {
  const auto pointer = [](const Tensor& tensor) {
    return tensor.defined() ? tensor.const_data_ptr<float>() : nullptr;
  };
  return {
      .q = btt::data(given[0]),
      .k = btt::data(given[1]),
      .v = btt::data(given[2]),
      .q_bias = pointer(given[3]),
      .k_bias = pointer(given[4]),
      .v_bias = pointer(given[5]),
      .q_gain = pointer(given[6]),
      .k_gain = pointer(given[7]),
      .batch = given[0].size(0),
      .time = static_cast<int>(given[0].size(1)),
      .heads = static_cast<int>(given[0].size(2) / given[6].size(0)),
      .scale = static_cast<float>(scale),
      .epsilon = static_cast<float>(epsilon)};
}

// By the formulas, in float32.
Tensor definition(const variable_list& given, double scale, double epsilon) {
  const Tensor& gain = given[6];
  const auto heads = [&](std::size_t i) {
    Tensor x = given[i].to(torch::kFloat32);
    if (given[i + 3].defined()) {
      x = x + given[i + 3];
    }
    return x.unflatten(-1, {-1, gain.size(0)}).transpose(1, 2);
  };
  const auto normed = [&](std::size_t i) {
    return torch::layer_norm(heads(i), gain.sizes(), given[i + 6], {}, epsilon);
  };
  const std::int64_t time = given[0].size(1);
  const Tensor later =
      torch::ones({time, time}, gain.options().dtype(torch::kBool)).triu(1);
  const Tensor scores =
      (scale * normed(0).matmul(normed(1).transpose(-1, -2)))
          .masked_fill(later, -std::numeric_limits<float>::infinity());
  return scores.softmax(-1).matmul(heads(2)).transpose(1, 2).flatten(-2);
}

class ShortAttention : public torch::autograd::Function<ShortAttention> {
 public:
  static Tensor forward(
      torch::autograd::AutogradContext* context,
      const Tensor& q,
      const Tensor& k,
      const Tensor& v,
      const std::optional<Tensor>& q_bias,
      const std::optional<Tensor>& k_bias,
      const std::optional<Tensor>& v_bias,
      const Tensor& q_gain,
      const Tensor& k_gain,
      double scale,
      double epsilon) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    const c10::cuda::CUDAGuard device(q.device());
    const variable_list given{
        q,
        k,
        v,
        q_bias.value_or(Tensor()),
        k_bias.value_or(Tensor()),
        v_bias.value_or(Tensor()),
        q_gain,
        k_gain};
    variable_list taken;
    for (const Tensor& tensor : given) {
      taken.push_back(btt::dense(tensor));
    }
    const ek::ShortAttention operands = operands_of(taken, scale, epsilon);
    Tensor y = torch::empty_like(taken[0]);
    const Tensor logs = torch::empty(
        {operands.batch, operands.heads, operands.time}, taken[6].options());
    C10_CUDA_CHECK(ek::short_attention(
        operands,
        btt::mutable_data(y),
        logs.mutable_data_ptr<float>(),
        c10::cuda::getCurrentCUDAStream()));
    variable_list saved = given;
    saved.push_back(y);
    saved.push_back(logs);
    context->save_for_backward(std::move(saved));
    context->saved_data["scale"] = scale;
    context->saved_data["epsilon"] = epsilon;
    return y;
  }

  static variable_list backward(
      torch::autograd::AutogradContext* context, const variable_list& grads) {
    variable_list result(kInputs + 2);
    if (!grads[0].defined()) {
      return result;
    }
    variable_list given = context->get_saved_variables();
    const Tensor y = given[kInputs];
    const Tensor logs = given[kInputs + 1];
    given.resize(kInputs);
    const double scale = context->saved_data["scale"].toDouble();
    const double epsilon = context->saved_data["epsilon"].toDouble();
    if (torch::GradMode::is_enabled()) {  // differentiable itself
      const c10::impl::ExcludeDispatchKeyGuard guard(
          c10::autocast_dispatch_keyset);
      const Tensor again = definition(given, scale, epsilon);
      for (std::size_t i = 0; i < kInputs; ++i) {
        if (given[i].defined() && given[i].requires_grad()) {
          result[i] = torch::autograd::grad(
              {again},
              {given[i]},
              {grads[0].to(torch::kFloat32)},
              /*retain_graph=*/true,
              /*create_graph=*/true)[0];
        }
      }
      return result;
    }
    const c10::cuda::CUDAGuard device(given[0].device());
    variable_list taken;
    for (const Tensor& tensor : given) {
      taken.push_back(btt::dense(tensor));
    }
    const Tensor dy = btt::dense(grads[0].to(torch::kBFloat16));
    const ek::ShortAttention operands = operands_of(taken, scale, epsilon);
    const ek::DeviceLimits& limits = device_limits();
    for (std::size_t i = 0; i < 3; ++i) {
      result[i] = torch::empty_like(taken[i]);
    }
    const bool sums =
        given[3].defined() || given[4].defined() || given[5].defined();
    const Tensor biases =
        sums ? torch::empty({3, taken[0].size(2)}, taken[6].options())
             : Tensor();
    const Tensor gains =
        torch::empty({2, taken[6].size(0)}, taken[6].options());
    const Tensor partials = btt::workspace(
        dy, ek::short_attention_backward_bytes(operands, limits));
    C10_CUDA_CHECK(ek::short_attention_backward(
        operands,
        {.y = btt::data(y),
         .logs = logs.const_data_ptr<float>(),
         .dy = btt::data(dy)},
        partials.mutable_data_ptr(),
        {.q = btt::mutable_data(result[0]),
         .k = btt::mutable_data(result[1]),
         .v = btt::mutable_data(result[2]),
         .biases = sums ? biases.mutable_data_ptr<float>() : nullptr,
         .gains = gains.mutable_data_ptr<float>()},
        limits,
        c10::cuda::getCurrentCUDAStream()));
    for (std::int64_t i = 0; i < 3; ++i) {
      const auto at = static_cast<std::size_t>(i) + 3;
      result[at] = given[at].defined() ? biases[i] : Tensor();
    }
    result[6] = gains[0];
    result[7] = gains[1];
    return result;
  }
};

}  // namespace

bool takes_short_attention(const AttentionInputs& inputs) {
  const Tensor& q = inputs.q.y;
  const auto takes = [&](const Tensor& tensor, std::int64_t width) {
    return tensor.scalar_type() == torch::kFloat32 && tensor.dim() == 1 &&
           tensor.size(0) == width && tensor.device() == q.device();
  };
  const std::int64_t head_width = inputs.q_gain.size(0);
  if (!architecture_supported(q) || q.dim() != 3 || q.numel() == 0 ||
      q.size(2) % head_width != 0 || inputs.scale <= 0 ||
      q.size(0) * (q.size(2) / head_width) > std::numeric_limits<int>::max() ||
      !ek::short_attention_supports(q.size(1), head_width) ||
      !takes(inputs.q_gain, head_width) || !takes(inputs.k_gain, head_width)) {
    return false;
  }
  for (const Unbiased* of : {&inputs.q, &inputs.k, &inputs.v}) {
    if (of->y.scalar_type() != torch::kBFloat16 ||
        of->y.device() != q.device() || of->y.sizes() != q.sizes() ||
        (of->bias.defined() && !takes(of->bias, q.size(2)))) {
      return false;
    }
  }
  return true;
}

bool short_attention_adds_biases(const Tensor& x, std::int64_t head_width) {
  return architecture_supported(x) && x.dim() == 3 && x.numel() > 0 &&
         at::autocast::is_autocast_enabled(torch::kCUDA) &&
         at::autocast::get_autocast_dtype(torch::kCUDA) == torch::kBFloat16 &&
         ek::short_attention_supports(x.size(1), head_width);
}

Tensor short_attention(const AttentionInputs& inputs) {
  return ShortAttention::apply(
      inputs.q.y,
      inputs.k.y,
      inputs.v.y,
      optional(inputs.q.bias),
      optional(inputs.k.bias),
      optional(inputs.v.bias),
      inputs.q_gain,
      inputs.k_gain,
      inputs.scale,
      inputs.epsilon);
}

}  // namespace einforge::ops::fused
