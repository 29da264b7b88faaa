#include "einforge/kernels/cuda/btt_weight_grad.cuh"

#include <algorithm>
#include <array>

#include "einforge/kernels/cuda/routed_tiles.cuh"

namespace einforge::kernels::cuda {

namespace {

// Threads of the reduction: vectors of four sums, and chains of splits.
constexpr int kReduceVectors = 32;
constexpr int kReduceChains = 8;
constexpr int kBackwardTile = 16;  // tokens, of btt_backward.cuh

struct ReduceParams {
  const float4* partials;  // (splits, batch, rows, rho, columns)
  __nv_bfloat16* grad;
  BttCores::Strides strides;
  int64_t vectors;  // of four, of one split
  int rows;
  int rho;
  int columns;
  int splits;
  RoutedRows routed;
  int64_t expert_stride;
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
    btt_weight_grad_reduce(const __grid_constant__ ReduceParams p) {
  __shared__ float4 chains[kReduceChains][kReduceVectors];
  const int64_t index =
      static_cast<int64_t>(blockIdx.x) * kReduceVectors + threadIdx.x;
  const auto expert = static_cast<int>(blockIdx.y);
  const int2 splits = p.routed.offsets == nullptr
                          ? int2{0, p.splits}
                          : splits_with_work<kBackwardTile>(p.routed, p.splits);
  float4 sum{0.0F, 0.0F, 0.0F, 0.0F};
  if (index < p.vectors) {
#pragma unroll 4
    for (int s = splits.x + static_cast<int>(threadIdx.y); s < splits.y;
         s += kReduceChains) {
      sum = sum + p.partials[(s + expert) * p.vectors + index];
    }
  }
  chains[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || index >= p.vectors) {
    return;
  }
#pragma unroll
  for (int i = 1; i < kReduceChains; ++i) {
    sum = sum + chains[i][threadIdx.x];
  }
  const float values[4] = {sum.x, sum.y, sum.z, sum.w};
  int64_t rest = 4 * index;
  const int64_t row_size = static_cast<int64_t>(p.rho) * p.columns;
  const int64_t first = rest % row_size;
  rest /= row_size;
  __nv_bfloat16* grad = p.grad + expert * p.expert_stride +
                        rest % p.rows * p.strides.in +
                        rest / p.rows * p.strides.gamma;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int64_t column = first + i;
    grad
        [column % p.columns * p.strides.phi +
         column / p.columns * p.strides.rho] = __float2bfloat16_rn(values[i]);
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

int blocks_of(int size, int block) {
  return (size + block - 1) / block;
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
        .group_blocks = blocks_of(s.batch, v.groups * kVector),
        .row_blocks = blocks_of(s.rows, v.rows),
        .column_blocks = blocks_of(s.rho * s.columns, v.columns),
        .stages = fit == 5 ? 4 : fit};
    const int64_t bytes = static_cast<int64_t>(grid.tiles()) * v.stage_bytes;
    if (best.variant == nullptr || bytes < least) {
      best = grid;
      least = bytes;
    }
  }
  if (best.variant != nullptr) {
    // One wave; a split of fewer than four steps would mostly wait.
    const int64_t steps = (tokens + kStepTokens - 1) / kStepTokens;
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
  const PartialsKernel kernel = grid.variant->kernel;
  const int shared = grid.stages * grid.variant->stage_bytes;
  const cudaError_t status = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
  if (status != cudaSuccess) {
    return status;
  }
  kernel<<<
      static_cast<unsigned>(grid.tiles() * grid.splits),
      static_cast<unsigned>(grid.variant->threads),
      static_cast<size_t>(shared),
      stream>>>(params);
  const cudaError_t launched = cudaGetLastError();
  if (launched != cudaSuccess) {
    return launched;
  }
  return btt_sum_partials(
      s,
      {.sums = params.partials, .splits = grid.splits, .rows = {}},
      launch.grad,
      launch.strides,
      /*expert_stride=*/0,
      stream);
}

cudaError_t btt_sum_partials(
    const BttWeightGradSizes& s,
    const BttPartials& partials,
    __nv_bfloat16* grad,
    const BttCores::Strides& strides,
    int64_t expert_stride,
    cudaStream_t stream) {
  const int64_t vectors =
      static_cast<int64_t>(s.batch) * s.rows * s.rho * s.columns / 4;
  const dim3 threads(kReduceVectors, kReduceChains);
  const dim3 blocks(
      static_cast<unsigned>((vectors + kReduceVectors - 1) / kReduceVectors),
      static_cast<unsigned>(partials.rows.experts));
  btt_weight_grad_reduce<<<blocks, threads, 0, stream>>>(
      {.partials = reinterpret_cast<const float4*>(partials.sums),
       .grad = grad,
       .strides = strides,
       .vectors = vectors,
       .rows = s.rows,
       .rho = s.rho,
       .columns = s.columns,
       .splits = partials.splits,
       .routed = partials.rows,
       .expert_stride = expert_stride});
  return cudaGetLastError();
}

}  // namespace einforge::kernels::cuda
