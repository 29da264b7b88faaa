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
  int threads;
  int teams;
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
      Tile::kThreads,
      Tile::kTeams,
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

constexpr int kMostStages = 4;

// How a layer runs: its cores in the order of the variant.
struct Plan {
  const Variant* variant = nullptr;
  int stages = 0;

  [[nodiscard]] int shared_bytes(int rho) const {
    return variant->teams * stages * variant->stage_bytes +
           rho * variant->core_bytes;
  }
};

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
    const int64_t room =
        limits.shared_bytes - static_cast<int64_t>(s.rho) * v.core_bytes;
    const int64_t stages = std::min<int64_t>(
        kMostStages, room / (static_cast<int64_t>(v.teams) * v.stage_bytes));
    if (room > 0 && stages >= 2) {
      best = {&v, static_cast<int>(stages)};
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
      .stages = plan.stages};
  Launch configured(v.threads, plan.shared_bytes(sizes.rho), stream);
  return configured.run(
      v.kernel,
      std::min(
          blocks_of(launch.tokens, v.tokens),
          static_cast<unsigned>(limits.multiprocessors)),
      params);
}

}  // namespace einforge::kernels::cuda
