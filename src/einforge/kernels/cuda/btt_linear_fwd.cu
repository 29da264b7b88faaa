#include "einforge/kernels/cuda/btt_linear_fwd.cuh"

#include <algorithm>

#include "einforge/kernels/cuda/btt_resident.h"
#include "einforge/kernels/cuda/ceil_div.h"
#include "einforge/kernels/cuda/launch.h"

namespace einforge::kernels::cuda {

namespace {

using ForwardKernel = void (*)(const BttForwardParams);

template <int kNTiles, int kWarps>
ForwardKernel forward_kernel(bool cluster) {
  return cluster ? btt_linear_fwd<kNTiles, kWarps, true>
                 : btt_linear_fwd<kNTiles, kWarps, false>;
}

// Eight sums of a unit take 32 registers per n-tile of 8 tokens: 16 warps have
// 128 registers per thread, enough for two; 8 warps have 255, enough for four.
ForwardKernel forward_kernel(const BttPlan& plan) {
  const bool cluster = plan.cluster > 1;
  if (plan.warps == 16) {
    switch (plan.n_tiles) {
      case 1:
        return forward_kernel<1, 16>(cluster);
      case 2:
        return forward_kernel<2, 16>(cluster);
      default:
        return nullptr;
    }
  }
  switch (plan.n_tiles) {
    case 3:
      return forward_kernel<3, 8>(cluster);
    case 4:
      return forward_kernel<4, 8>(cluster);
    default:
      return nullptr;
  }
}

constexpr size_t kPlans = 6;  // worth measuring for one layer

SharedLayout layout_of(const BttSizes& s, const BttPlan& plan) {
  return shared_layout(s.alpha, s.gamma, s.phi, s.rho, plan.cluster);
}

}  // namespace

std::string BttPlan::name() const {
  if (kernel == BttKernel::kResident) {
    return "resident_c" + std::to_string(cluster);
  }
  return "fused_c" + std::to_string(cluster) + "_t" +
         std::to_string(8 * n_tiles) + "x" + std::to_string(token_groups) +
         "_x" + std::to_string(x_buffers) + "_w" + std::to_string(warps);
}

BttSizes btt_packed_sizes(const BttSizes& s, const BttPlan& plan) {
  return plan.kernel == BttKernel::kResident ? resident_sizes(s) : s;
}

size_t btt_shared_bytes(const BttSizes& s, const BttPlan& plan) {
  if (plan.kernel == BttKernel::kResident) {
    return resident_shared_bytes(s);
  }
  const SharedLayout layout = layout_of(s, plan);
  const int row = plan.x_buffers * layout.x_row + layout.z_row;
  return static_cast<size_t>(row) * plan.tile_tokens() * 16;
}

bool btt_supports(
    const BttSizes& s, const BttPlan& plan, const DeviceLimits& limits) {
  if (plan.kernel == BttKernel::kResident) {
    return resident_supports(s, plan, limits);
  }
  const bool shape =
      s.alpha % kFragmentDepth == 0 && s.epsilon % kFragmentRows == 0 &&
      s.gamma % kFragmentDepth == 0 && s.phi * s.rho % kFragmentRows == 0 &&
      s.gamma % (plan.cluster * kVector) == 0 &&
      s.phi % (plan.cluster * kVector) == 0 && s.rho > 0;
  const auto most = static_cast<size_t>(limits.shared_bytes);
  return shape && plan.token_groups > 0 && btt_pack_shared_bytes(s) <= most &&
         (plan.x_buffers == 1 || plan.x_buffers == 2) &&
         forward_kernel(plan) != nullptr &&
         (plan.cluster == 1 || limits.major >= 9) &&
         btt_shared_bytes(s, plan) <= most;
}

std::vector<BttPlan> btt_plans(
    const BttSizes& sizes, int64_t /*tokens*/, const DeviceLimits& limits) {
  std::vector<BttPlan> candidates;
  candidates.push_back(
      {.cluster = resident_cluster(sizes),
       .n_tiles = 2,
       .kernel = BttKernel::kResident});
  // The portable kernel: more tokens a tile where they fit. Clusters of it
  // only pay where one block cannot hold a tile.
  constexpr BttPlan shapes[] = {
      {.n_tiles = 3, .token_groups = 2, .x_buffers = 1, .warps = 8},
      {.n_tiles = 4, .token_groups = 1, .x_buffers = 1, .warps = 8},
      {.n_tiles = 2, .token_groups = 1, .x_buffers = 1, .warps = 16},
      {.n_tiles = 1, .token_groups = 1, .x_buffers = 1, .warps = 16}};
  for (const int cluster : {1, 2, 4, 8}) {
    for (BttPlan plan : shapes) {
      plan.cluster = cluster;
      candidates.push_back(plan);
    }
  }
  std::vector<BttPlan> plans;
  for (const BttPlan& plan : candidates) {
    if (plans.size() < kPlans && btt_supports(sizes, plan, limits)) {
      plans.push_back(plan);
    }
  }
  return plans;
}

cudaError_t btt_forward(
    const BttSizes& s,
    const BttLaunch& launch,
    const BttPlan& plan,
    const DeviceLimits& limits,
    bool after_pack,
    cudaStream_t stream) {
  if (!btt_supports(s, plan, limits) || launch.x_stride % kVector != 0 ||
      launch.y_stride % kVector != 0) {
    return cudaErrorInvalidValue;
  }
  if (launch.tokens == 0) {
    return cudaSuccess;
  }
  if (plan.kernel == BttKernel::kResident) {
    return resident_forward(s, launch, limits, after_pack, stream);
  }
  const int64_t tiles = ceil_div(launch.tokens, plan.tile_tokens());
  const size_t one_vectors =
      static_cast<size_t>(s.d_in()) * s.phi * s.rho / kVector;
  const auto* packed = static_cast<const uint4*>(launch.packed);
  const BttForwardParams params{
      .x = launch.x,
      .y = launch.y,
      .bias = launch.bias,
      .z = launch.z,
      .weights_one = packed,
      .weights_two = packed + one_vectors,
      .x_stride = launch.x_stride,
      .y_stride = launch.y_stride,
      .tokens = launch.tokens,
      .tiles = static_cast<int>(tiles),
      .sizes = s,
      .cluster = plan.cluster,
      .token_groups = plan.token_groups,
      .x_buffers = plan.x_buffers,
      .wait_for_pack = after_pack ? 1 : 0,
      .layout = layout_of(s, plan)};
  Launch configured(
      32 * plan.warps, static_cast<int>(btt_shared_bytes(s, plan)), stream);
  configured.set_cluster(plan.cluster);
  if (after_pack && limits.major >= 9) {
    configured.enable_pdl();
  }
  const int64_t clusters = std::min<int64_t>(
      tiles, std::max(1, limits.multiprocessors / plan.cluster));
  return configured.run(
      forward_kernel(plan), static_cast<unsigned>(clusters), params);
}

}  // namespace einforge::kernels::cuda
