#include "einforge/kernels/cuda/btt_weight_grad.cuh"

#include <algorithm>
#include <array>

#include "einforge/kernels/cuda/blocks.h"
#include "einforge/kernels/cuda/btt_backward.h"
#include "einforge/kernels/cuda/launch.h"
#include "einforge/kernels/cuda/routed_tiles.cuh"

namespace einforge::kernels::cuda {

namespace {

// Threads of the reduction: vectors of four sums, and chains of splits.
constexpr int kReduceVectors = 32;
constexpr int kReduceChains = 8;
// Blocks of it for a multiprocessor: twice what runs at once, so that few of
// them work out which splits an expert has.
constexpr int kReduceBlocks = 16;

struct ReduceParams {
  struct Core {
    const float4* partials;  // (slots, batch, rows, rho, columns)
    __nv_bfloat16* grad;
    BttCores::Strides strides;
    int64_t vectors;  // of four, of one slot
    int rows;
    int rho;
    int columns;
    int64_t expert_stride;
  };
  Core cores[2];
  int splits;
  RoutedRows routed;
};

// The splits that gave something to this block's expert: [first, second).
template <int kTile>
__device__ int2 splits_with_work(const RoutedRows& rows, int splits) {
  const RoutedTiles<kTile> tiles{rows};
  const int expert = static_cast<int>(blockIdx.y);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  int start = 0;
  for (int first = 0; first < expert; first += 32) {
    const int e = first + lane;
    start += __reduce_add_sync(0xFFFFFFFFU, e < expert ? tiles.tiles(e) : 0);
  }
  const int items = tiles.all();
  const int count = tiles.tiles(expert);
  if (count == 0) {
    return {0, 0};
  }
  const auto owner = [&](int item) {
    int split = static_cast<int>(static_cast<int64_t>(item) * splits / items);
    while (tiles.stretch(items, split + 1, splits) <= item) {
      ++split;
    }
    while (tiles.stretch(items, split, splits) > item) {
      --split;
    }
    return split;
  };
  return {owner(start), owner(start + count - 1) + 1};
}

__device__ float4 operator+(const float4& a, const float4& b) {
  return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w};
}

// Sums the splits in a fixed order: every chain its own, then the chains.
__global__ void __launch_bounds__(kReduceVectors* kReduceChains)
    btt_weight_grad_reduce(const __grid_constant__ ReduceParams all) {
  __shared__ float4 chains[kReduceChains][kReduceVectors];
  const ReduceParams::Core& p = all.cores[blockIdx.z];
  const auto vector = static_cast<int>(threadIdx.x) % kReduceVectors;
  const auto chain = static_cast<int>(threadIdx.x) / kReduceVectors;
  const auto expert = static_cast<int>(blockIdx.y);
  const int2 splits =
      all.routed.offsets == nullptr
          ? int2{0, all.splits}
          : splits_with_work<kBackwardTokens>(all.routed, all.splits);
  const int64_t row_size = static_cast<int64_t>(p.rho) * p.columns;
  ptx::wait_for_previous_kernel();
  for (int64_t block = static_cast<int64_t>(blockIdx.x) * kReduceVectors;
       block < p.vectors;
       block += static_cast<int64_t>(gridDim.x) * kReduceVectors) {
    const int64_t index = block + vector;
    float4 sum{0.0F, 0.0F, 0.0F, 0.0F};
    if (index < p.vectors) {
#pragma unroll 4
      for (int s = splits.x + chain; s < splits.y; s += kReduceChains) {
        sum = sum + p.partials[(s + expert) * p.vectors + index];
      }
    }
    chains[chain][vector] = sum;
    __syncthreads();
    if (chain == 0 && index < p.vectors) {
#pragma unroll
      for (int i = 1; i < kReduceChains; ++i) {
        sum = sum + chains[i][vector];
      }
      const float values[4] = {sum.x, sum.y, sum.z, sum.w};
      const int64_t rest = 4 * index / row_size;
      const int64_t first = 4 * index % row_size;
      __nv_bfloat16* grad = p.grad + expert * p.expert_stride +
                            rest % p.rows * p.strides.in +
                            rest / p.rows * p.strides.gamma;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int64_t column = first + i;
        grad
            [column % p.columns * p.strides.phi +
             column / p.columns * p.strides.rho] =
                __float2bfloat16_rn(values[i]);
      }
    }
    __syncthreads();
  }
}

using PartialsKernel = void (*)(const BttWeightGradParams);

struct Variant {
  PartialsKernel kernel;
  int groups;
  int rows;
  int columns;
  int threads;
  int stage_bytes;
};

template <int kGroups, int kRowTiles, int kColumnTiles>
Variant variant() {
  using Tile = BttWeightGradTile<kGroups, kRowTiles, kColumnTiles>;
  return {
      btt_weight_grad_partials<Tile>,
      kGroups,
      Tile::kRows,
      Tile::kColumns,
      Tile::kThreads,
      Tile::kStageBytes};
}

// Eight warps each: with 128 sums and as much again for operands and
// addresses, a multiprocessor holds one such block.
const std::array<Variant, 8>& variants() {
  static const std::array<Variant, 8> all{
      variant<1, 4, 2>(),
      variant<1, 2, 4>(),
      variant<2, 2, 2>(),
      variant<2, 4, 1>(),
      variant<2, 1, 4>(),
      variant<4, 2, 1>(),
      variant<4, 1, 2>(),
      variant<8, 1, 1>()};
  return all;
}

struct Grid {
  const Variant* variant = nullptr;
  int group_blocks = 0;
  int row_blocks = 0;
  int column_blocks = 0;
  int splits = 0;
  int stages = 0;

  [[nodiscard]] int tiles() const {
    return group_blocks * row_blocks * column_blocks;
  }
};

// The variant that copies the fewest bytes to shared memory, padding and
// second reads included; then the one that wants the fewest partial sums.
Grid grid_of(
    const BttWeightGradSizes& s, int64_t tokens, const DeviceLimits& limits) {
  Grid best;
  int64_t least = 0;
  for (const Variant& v : variants()) {
    const int fit = std::min(6, limits.shared_bytes / v.stage_bytes);
    if (fit < 2) {
      continue;
    }
    Grid grid{
        .variant = &v,
        .group_blocks =
            static_cast<int>(blocks_of(s.batch, v.groups * kVector)),
        .row_blocks = static_cast<int>(blocks_of(s.rows, v.rows)),
        .column_blocks =
            static_cast<int>(blocks_of(s.rho * s.columns, v.columns)),
        .stages = fit == 5 ? 4 : fit};
    const int64_t bytes = static_cast<int64_t>(grid.tiles()) * v.stage_bytes;
    if (best.variant == nullptr || bytes < least) {
      best = grid;
      least = bytes;
    }
  }
  if (best.variant != nullptr) {
    // One wave; a split of fewer than four steps would mostly wait.
    const int64_t steps = blocks_of(tokens, kStepTokens);
    best.splits = static_cast<int>(std::clamp<int64_t>(
        steps / 4, 1, std::max(1, limits.multiprocessors / best.tiles())));
  }
  return best;
}

}  // namespace

bool btt_weight_grad_supports(
    const BttWeightGradSizes& s, const DeviceLimits& limits) {
  return s.batch > 0 && s.batch % kVector == 0 && s.rows > 0 && s.rho > 0 &&
         s.columns > 0 && s.rho * s.columns % kVector == 0 &&
         grid_of(s, 1, limits).variant != nullptr;
}

size_t btt_weight_grad_bytes(
    const BttWeightGradSizes& s, int64_t tokens, const DeviceLimits& limits) {
  const size_t core = sizeof(float) * s.batch * s.rows * s.rho * s.columns;
  return core * grid_of(s, tokens, limits).splits;
}

cudaError_t btt_weight_grad(
    const BttWeightGradSizes& s,
    const BttWeightGradLaunch& launch,
    const DeviceLimits& limits,
    cudaStream_t stream) {
  if (!btt_weight_grad_supports(s, limits) || launch.tokens <= 0 ||
      launch.p_stride % kVector != 0) {
    return cudaErrorInvalidValue;
  }
  const Grid grid = grid_of(s, launch.tokens, limits);
  const BttWeightGradParams params{
      .p = launch.p,
      .q = launch.q,
      .partials = static_cast<float*>(launch.workspace),
      .p_stride = launch.p_stride,
      .tokens = launch.tokens,
      .batch = s.batch,
      .rows = s.rows,
      .all_columns = s.rho * s.columns,
      .group_blocks = grid.group_blocks,
      .row_blocks = grid.row_blocks,
      .column_blocks = grid.column_blocks,
      .splits = grid.splits,
      .stages = grid.stages};
  Launch configured(
      grid.variant->threads, grid.stages * grid.variant->stage_bytes, stream);
  const cudaError_t status = configured.run(
      grid.variant->kernel,
      static_cast<unsigned>(grid.tiles() * grid.splits),
      params);
  if (status != cudaSuccess) {
    return status;
  }
  return btt_sum_partials(
      {{{.sizes = s,
         .sums = params.partials,
         .grad = launch.grad,
         .strides = launch.strides}},
       grid.splits,
       {}},
      limits,
      stream);
}

cudaError_t btt_sum_partials(
    const BttPartials& partials,
    const DeviceLimits& limits,
    cudaStream_t stream) {
  ReduceParams params{};
  params.splits = partials.splits;
  params.routed = partials.rows;
  int cores = 0;
  int64_t most_vectors = 0;
  for (const BttPartials::Core& core : partials.cores) {
    if (core.grad == nullptr) {
      continue;
    }
    const BttWeightGradSizes& s = core.sizes;
    const int64_t vectors =
        static_cast<int64_t>(s.batch) * s.rows * s.rho * s.columns / 4;
    most_vectors = std::max(most_vectors, vectors);
    params.cores[cores++] = {
        .partials = reinterpret_cast<const float4*>(core.sums),
        .grad = core.grad,
        .strides = core.strides,
        .vectors = vectors,
        .rows = s.rows,
        .rho = s.rho,
        .columns = s.columns,
        .expert_stride = core.expert_stride};
  }
  Launch configured(kReduceVectors * kReduceChains, 0, stream);
  if (limits.major >= 9) {
    configured.start_early();
  }
  return configured.run(
      btt_weight_grad_reduce,
      {std::min(
           blocks_of(most_vectors, kReduceVectors),
           blocks_of(
               static_cast<int64_t>(kReduceBlocks) * limits.multiprocessors,
               static_cast<int64_t>(partials.rows.experts) * cores)),
       static_cast<unsigned>(partials.rows.experts),
       static_cast<unsigned>(cores)},
      params);
}

}  // namespace einforge::kernels::cuda
