#include <algorithm>

#include "einforge/kernels/cuda/blocks.h"
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
  bool turned;
  int team_warps;
  int most_teams;
  int tokens;
  int stage_bytes;
  int core_bytes;
};

template <int kI, int kS, int kU, int kV, bool kTurned = false>
constexpr Variant variant() {
  using Tile = KroneckerTile<kI, kS, kU, kV, kTurned>;
  return {
      kronecker_forward_tokens<Tile>,
      kI,
      kS,
      kU,
      kV,
      kTurned,
      Tile::kTeamWarps,
      Tile::kMostTeams,
      Tile::kTokens,
      Tile::kStageBytes,
      Tile::kCoreBytes};
}

constexpr Variant kVariants[] = {
    variant<32, 32, 32, 32>(),
    variant<32, 64, 32, 64>(),
    variant<64, 64, 64, 64>(),
    // Tensor-Trains of width 2048, (32,64|64,32), and their gradients of x.
    variant<64, 32, 32, 64, /*kTurned=*/true>(),
    variant<64, 32, 32, 64>(),
    // From 1024 to 4096 and back.
    variant<32, 32, 64, 64>(),
    variant<64, 64, 32, 32>(),
    variant<16, 32, 16, 32>(),
    variant<16, 128, 16, 128>()};

// How a layer runs: its cores in the order of the variant.
struct Plan {
  const Variant* variant = nullptr;
  int teams = 0;
  int stages = 0;

  [[nodiscard]] int shared_bytes(int rho) const {
    return teams * stages * variant->stage_bytes + rho * variant->core_bytes;
  }
};

// All teams and up to four stages, or as many teams as there is room for.
Plan plan_of(const Variant& v, int rho, const DeviceLimits& limits) {
  constexpr int kFewestStages = 2;
  constexpr int kMostStages = 4;
  const int64_t room =
      limits.shared_bytes - static_cast<int64_t>(rho) * v.core_bytes;
  const int64_t all = room > 0 ? room / v.stage_bytes : 0;
  const auto teams =
      static_cast<int>(std::min<int64_t>(v.most_teams, all / kFewestStages));
  if (teams == 0) {
    return {};
  }
  return {
      &v, teams, static_cast<int>(std::min<int64_t>(kMostStages, all / teams))};
}

Plan plan_of(const KroneckerSizes& s, const DeviceLimits& limits) {
  Plan best;
  int64_t least = 0;
  for (const Variant& v : kVariants) {
    const bool fits = v.turned ? v.i == s.beta && v.s == s.alpha &&
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
      .first = v.turned ? b : a,
      .second = v.turned ? a : b,
      .tokens = launch.tokens,
      .rho = sizes.rho,
      .teams = plan.teams,
      .stages = plan.stages};
  Launch configured(
      32 * plan.teams * v.team_warps, plan.shared_bytes(sizes.rho), stream);
  return configured.run(
      v.kernel,
      std::min(
          blocks_of(launch.tokens, v.tokens),
          static_cast<unsigned>(limits.multiprocessors)),
      params);
}

}  // namespace einforge::kernels::cuda
