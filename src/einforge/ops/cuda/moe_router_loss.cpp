#include "einforge/ops/cuda/moe_router_loss.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "einforge/kernels/cuda/moe_router_loss.h"
#include "einforge/ops/cuda/btt_operands.h"
#include "einforge/ops/cuda/device.h"

namespace einforge::ops::fused {
namespace {

namespace ek = kernels::cuda;
using torch::Tensor;

ek::MoeRouterLossLaunch launch_of(
    const Tensor& logits, double balance_weight, double z_weight) {
  return {
      .logits = logits.const_data_ptr<float>(),
      .tokens = logits.size(0),
      .experts = static_cast<int>(logits.size(1)),
      .balance_weight = static_cast<float>(balance_weight),
      .z_weight = static_cast<float>(z_weight)};
}

}  // namespace

bool takes_router_loss(const Tensor& logits) {
  return architecture_supported(logits) &&
         logits.scalar_type() == torch::kFloat32 &&
         ek::moe_router_loss_supports(logits.size(1));
}

std::tuple<Tensor, Tensor> router_loss(
    const Tensor& logits,
    const Tensor& experts,
    double balance_weight,
    double z_weight) {
  const c10::cuda::CUDAGuard guard(logits.device());
  const std::int64_t count = logits.size(1);
  const Tensor scores = logits.contiguous();
  const Tensor chosen = experts.to(torch::kInt32).contiguous();
  const Tensor partials = btt::workspace(
      logits, ek::moe_router_loss_bytes(static_cast<int>(count)));
  Tensor loss = torch::empty({}, logits.options());
  Tensor counts = torch::empty({count}, experts.options().dtype(torch::kInt64));
  C10_CUDA_CHECK(ek::moe_router_loss(
      launch_of(scores, balance_weight, z_weight),
      chosen.const_data_ptr<std::int32_t>(),
      static_cast<int>(chosen.size(1)),
      partials.mutable_data_ptr(),
      loss.mutable_data_ptr<float>(),
      counts.mutable_data_ptr<std::int64_t>(),
      c10::cuda::getCurrentCUDAStream()));
  return {loss, counts};
}

Tensor router_loss_backward(
    const Tensor& grad,
    const Tensor& logits,
    const Tensor& counts,
    double balance_weight,
    double z_weight) {
  const c10::cuda::CUDAGuard guard(logits.device());
  const Tensor scores = logits.contiguous();
  Tensor dlogits = torch::empty_like(scores);
  C10_CUDA_CHECK(ek::moe_router_loss_backward(
      launch_of(scores, balance_weight, z_weight),
      counts.const_data_ptr<std::int64_t>(),
      grad.const_data_ptr<float>(),
      dlogits.mutable_data_ptr<float>(),
      c10::cuda::getCurrentCUDAStream()));
  return dlogits;
}

}  // namespace einforge::ops::fused
