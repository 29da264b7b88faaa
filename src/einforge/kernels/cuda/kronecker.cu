#include <algorithm>

#include "einforge/kernels/cuda/ceil_div.h"
#include "einforge/kernels/cuda/kronecker.h"
#include "einforge/kernels/cuda/kronecker_fwd.cuh"
#include "einforge/kernels/cuda/launch.h"

namespace einforge::kernels::cuda {

namespace {

struct Variant {
  void (*kernel)(KroneckerParams);
  int i;
  int s;
  int u;
  int v;
  bool transposed;
  int group_warps;
  int most_warp_groups;
  int tokens;
  int stage_bytes;
  int core_bytes;
};

template <int kI, int kS, int kU, int kV, bool kTransposed = false>
constexpr Variant variant() {
  using Tile = KroneckerTile<kI, kS, kU, kV, kTransposed>;
  return {
      kronecker_forward_tokens<Tile>,
      kI,
      kS,
      kU,
      kV,
      kTransposed,
      Tile::kGroupWarps,
      Tile::kMostWarpGroups,
      Tile::kTokens,
      Tile::kStageBytes,
      Tile::kCoreBytes};
}

constexpr Variant kVariants[] = {
    variant<32, 32, 32, 32>(),
    variant<32, 64, 32, 64>(),
    variant<64, 64, 64, 64>(),
    // Tensor-Trains of width 2048, (32,64|64,32), and their gradients of x.
    variant<64, 32, 32, 64, /*kTransposed=*/true>(),
    variant<64, 32, 32, 64>(),
    // From 1024 to 4096 and back.
    variant<32, 32, 64, 64>(),
    variant<64, 64, 32, 32>(),
    variant<16, 32, 16, 32>(),
    variant<16, 128, 16, 128>()};

// How a layer runs: its cores in the order of the variant.
struct Plan {
  const Variant* variant = nullptr;
  int warp_groups = 0;
  int stages = 0;

  [[nodiscard]] int shared_bytes(int rho) const {
    return warp_groups * stages * variant->stage_bytes +
           rho * variant->core_bytes;
  }
};

// All warp groups and up to four stages, or as many warp groups as there is
// room for.
Plan plan_of(const Variant& v, int rho, const DeviceLimits& limits) {
  constexpr int kFewestStages = 2;
  constexpr int kMostStages = 4;
  const int64_t room =
      limits.shared_bytes - static_cast<int64_t>(rho) * v.core_bytes;
  const int64_t all = room > 0 ? room / v.stage_bytes : 0;
  const auto warp_groups = static_cast<int>(
      std::min<int64_t>(v.most_warp_groups, all / kFewestStages));
  if (warp_groups == 0) {
    return {};
  }
  return {
      &v,
      warp_groups,
      static_cast<int>(std::min<int64_t>(kMostStages, all / warp_groups))};
}

Plan plan_of(const KroneckerSizes& s, const DeviceLimits& limits) {
  Plan best;
  int64_t least = 0;
  for (const Variant& v : kVariants) {
    const bool fits = v.transposed ? v.i == s.beta && v.s == s.alpha &&
                                         v.u == s.epsilon && v.v == s.delta
                                   : v.i == s.alpha && v.s == s.beta &&
                                         v.u == s.delta && v.v == s.epsilon;
    const int64_t products = static_cast<int64_t>(v.s) * v.u * (v.i + v.v);
    if (!fits || s.rho < 1 || (best.variant != nullptr && products >= least)) {
      continue;
    }
    const Plan plan = plan_of(v, s.rho, limits);
    if (plan.variant != nullptr) {
      best = plan;
      least = products;
    }
  }
  return best;
}

}  // namespace

bool kronecker_supports(
    const KroneckerSizes& sizes, const DeviceLimits& limits) {
  return plan_of(sizes, limits).variant != nullptr;
}

cudaError_t kronecker_forward(
    const KroneckerSizes& sizes,
    const KroneckerCore& a,
    const KroneckerCore& b,
    const KroneckerLaunch& launch,
    const DeviceLimits& limits,
    cudaStream_t stream) {
  const Plan plan = plan_of(sizes, limits);
  if (plan.variant == nullptr || launch.tokens <= 0) {
    return cudaErrorInvalidValue;
  }
  const Variant& v = *plan.variant;
  const KroneckerParams params{
      .x = launch.x,
      .y = launch.y,
      .bias = launch.bias,
      .first = v.transposed ? b : a,
      .second = v.transposed ? a : b,
      .tokens = launch.tokens,
      .rho = sizes.rho,
      .warp_groups = plan.warp_groups,
      .stages = plan.stages};
  Launch configured(
      32 * plan.warp_groups * v.group_warps,
      plan.shared_bytes(sizes.rho),
      stream);
  return configured.run(
      v.kernel,
      std::min(
          ceil_div(launch.tokens, v.tokens),
          static_cast<unsigned>(limits.multiprocessors)),
      params);
}

}  // namespace einforge::kernels::cuda
