#include <algorithm>

#include "einforge/kernels/cuda/btt_weight_grad.h"
#include "einforge/kernels/cuda/ceil_div.h"
#include "einforge/kernels/cuda/kronecker.h"
#include "einforge/kernels/cuda/kronecker_grad.cuh"
#include "einforge/kernels/cuda/launch.h"

namespace einforge::kernels::cuda {

namespace {

struct Variant {
  void (*kernel)(KroneckerGradParams);
  KroneckerSizes sizes;  // in, first and second core, out; any rho
  int units;
  int most_warps;
  int token_bytes;
  int core_bytes;
  int unit_bytes;  // of a warp's sums
};

template <int kI, int kS, int kU, int kV>
constexpr Variant variant() {
  using Tile = KroneckerGradTile<kI, kS, kU, kV>;
  return {
      kronecker_grad_partials<Tile>,
      {kI, kS, kU, kV},
      Tile::kUnits,
      Tile::kMostWarps,
      Tile::kTokenBytes,
      Tile::kCoreBytes,
      128 * Tile::kMostSums};
}

// Each takes its transposed layer too.
constexpr Variant kVariants[] = {
    variant<32, 32, 32, 32>(),
    variant<32, 64, 32, 64>(),
    variant<64, 64, 64, 64>(),
    variant<64, 32, 32, 64>(),
    variant<32, 32, 64, 64>(),
    variant<16, 32, 16, 32>(),
    variant<16, 128, 16, 128>()};

// How a layer runs: as it is or, `transposed`, with the roles of x and dy
// exchanged, whose z and dz may be smaller.
struct Plan {
  const Variant* variant = nullptr;
  bool transposed = false;
  int ranks = 0;
  int groups = 0;
  int warp_groups = 0;
  int stage_tokens = 0;

  [[nodiscard]] int threads() const {
    return 32 * warp_groups * ranks * variant->units;
  }
  [[nodiscard]] int shared_bytes() const {
    return ranks * variant->core_bytes +
           std::max(
               warp_groups * kGradStages * stage_tokens * variant->token_bytes,
               warp_groups / 2 * ranks * variant->units * variant->unit_bytes);
  }
};

// The largest warp groups that a block has room for, and as many. A stage has
// several tokens where a barrier for each would stop many warps.
Plan plan_of(const Variant& v, int rho, const DeviceLimits& limits) {
  constexpr int kMostStageTokens = 4;
  constexpr int kFewWarps = 2;
  Plan plan{.variant = &v, .stage_tokens = 1};
  const auto fits = [&] { return plan.shared_bytes() <= limits.shared_bytes; };
  const int most_ranks = std::min(rho, v.most_warps / v.units);
  plan.groups = static_cast<int>(ceil_div(rho, most_ranks));
  plan.ranks = static_cast<int>(ceil_div(rho, plan.groups));  // all alike
  plan.groups = static_cast<int>(ceil_div(rho, plan.ranks));
  const int warps = plan.ranks * v.units;
  plan.warp_groups = v.most_warps / warps;
  while (plan.warp_groups > 1 && !fits()) {
    --plan.warp_groups;
  }
  if (!fits()) {
    return {};
  }
  while (warps > kFewWarps && plan.stage_tokens < kMostStageTokens) {
    plan.stage_tokens *= 2;
    if (!fits()) {
      plan.stage_tokens /= 2;
      break;
    }
  }
  return plan;
}

Plan plan_of(const KroneckerSizes& sizes, const DeviceLimits& limits) {
  Plan best;
  int64_t least = 0;
  for (const Variant& v : kVariants) {
    for (const bool transposed : {false, true}) {
      KroneckerSizes s = transposed ? sizes.transposed() : sizes;
      s.rho = v.sizes.rho;
      const int64_t products =
          static_cast<int64_t>(s.beta) * s.delta * (s.alpha + s.epsilon);
      if (s != v.sizes || sizes.rho < 1 ||
          (best.variant != nullptr && products >= least)) {
        continue;
      }
      Plan plan = plan_of(v, sizes.rho, limits);
      if (plan.variant != nullptr) {
        plan.transposed = transposed;
        best = plan;
        least = products;
      }
    }
  }
  return best;
}

// One wave of blocks, as far as their warp groups have tokens.
int splits_of(const Plan& plan, int64_t tokens, const DeviceLimits& limits) {
  return static_cast<int>(std::clamp<int64_t>(
      ceil_div(tokens, plan.stage_tokens * plan.warp_groups),
      1,
      std::max(1, limits.multiprocessors / plan.groups)));
}

size_t core_size(int in, int out, int rho) {
  return static_cast<size_t>(in) * out * rho;
}

// Of partial sums (out, rho, in) of a core (in, out, rho), or, not `by_out`,
// (in, rho, out).
BttPartials::Core partial_core(
    const float* sums,
    __nv_bfloat16* grad,
    const KroneckerCore& strides,
    int rows,
    int rho,
    int columns,
    bool by_out) {
  BttPartials::Core core;
  core.sums = sums;
  core.grad = grad;
  core.sizes.rows = rows;
  core.sizes.rho = rho;
  core.sizes.columns = columns;
  core.strides.in = by_out ? strides.out : strides.in;
  core.strides.phi = by_out ? strides.in : strides.out;
  core.strides.rho = strides.rho;
  return core;
}

}  // namespace

bool kronecker_grad_supports(
    const KroneckerSizes& sizes, const DeviceLimits& limits) {
  return plan_of(sizes, limits).variant != nullptr;
}

size_t kronecker_grad_bytes(
    const KroneckerSizes& s, int64_t tokens, const DeviceLimits& limits) {
  return sizeof(float) *
         (core_size(s.alpha, s.delta, s.rho) +
          core_size(s.beta, s.epsilon, s.rho)) *
         splits_of(plan_of(s, limits), tokens, limits);
}

cudaError_t kronecker_grad(
    const KroneckerSizes& sizes,
    const KroneckerCore& a,
    const KroneckerCore& b,
    const KroneckerGradLaunch& launch,
    const DeviceLimits& limits,
    cudaStream_t stream) {
  const Plan plan = plan_of(sizes, limits);
  if (plan.variant == nullptr || launch.tokens <= 0) {
    return cudaErrorInvalidValue;
  }
  const Variant& v = *plan.variant;
  const KroneckerSizes& s = v.sizes;
  const bool turn = plan.transposed;
  const int splits = splits_of(plan, launch.tokens, limits);
  auto* first_partials = static_cast<float*>(launch.workspace);
  float* second_partials =
      first_partials + splits * core_size(s.alpha, s.delta, sizes.rho);
  const KroneckerGradParams params{
      .in = turn ? launch.dy : launch.x,
      .dout = turn ? launch.x : launch.dy,
      .first = turn ? a.transposed() : a,
      .second = turn ? b.transposed() : b,
      .first_partials = first_partials,
      .second_partials = second_partials,
      .tokens = launch.tokens,
      .rho = sizes.rho,
      .ranks = plan.ranks,
      .groups = plan.groups,
      .splits = splits,
      .warp_groups = plan.warp_groups,
      .stage_tokens = plan.stage_tokens};
  Launch configured(plan.threads(), plan.shared_bytes(), stream);
  const cudaError_t status = configured.run(
      v.kernel, static_cast<unsigned>(splits * plan.groups), params);
  if (status != cudaSuccess) {
    return status;
  }
  const KroneckerCore da =
      turn ? launch.da_strides.transposed() : launch.da_strides;
  const KroneckerCore db =
      turn ? launch.db_strides.transposed() : launch.db_strides;
  return btt_sum_partials(
      {{partial_core(
            first_partials,
            launch.da,
            da,
            s.delta,
            sizes.rho,
            s.alpha,
            /*by_out=*/true),
        partial_core(
            second_partials,
            launch.db,
            db,
            s.beta,
            sizes.rho,
            s.epsilon,
            /*by_out=*/false)},
       splits,
       {}},
      limits,
      stream);
}

}  // namespace einforge::kernels::cuda
