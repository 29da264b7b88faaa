#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

// The loss that keeps a router's load even, from its scores and its choice:
//
//   balance_weight E sum_i(p_i f_i) + z_weight mean(logsumexp(logits)^2)
//
// p_i the mean over tokens of softmax(logits)_i, f_i the share of assignments
// that expert i has. All sums have a fixed order.
namespace einforge::kernels::cuda {

// 1 to 256.
[[nodiscard]] bool moe_router_loss_supports(int64_t experts);

struct MoeRouterLossLaunch {
  const float* logits = nullptr;  // (tokens, experts)
  int64_t tokens = 0;             // above 0
  int experts = 1;
  float balance_weight = 0;
  float z_weight = 0;
};

// Bytes of the partial sums.
[[nodiscard]] size_t moe_router_loss_bytes(int experts);

// @param chosen (tokens, active)
// @param loss one element
// @param counts (experts), of assignments
[[nodiscard]] cudaError_t moe_router_loss(
    const MoeRouterLossLaunch& launch,
    const int32_t* chosen,
    int active,
    void* workspace,
    float* loss,
    int64_t* counts,
    cudaStream_t stream);

// @param grad of the loss, one element on the device
// @param dlogits (tokens, experts)
[[nodiscard]] cudaError_t moe_router_loss_backward(
    const MoeRouterLossLaunch& launch,
    const int64_t* counts,
    const float* grad,
    float* dlogits,
    cudaStream_t stream);

}  // namespace einforge::kernels::cuda
