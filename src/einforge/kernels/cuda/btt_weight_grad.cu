#include "einforge/kernels/cuda/btt_weight_grad.cuh"

#include <algorithm>
#include <array>

#include "einforge/kernels/cuda/btt_backward.h"
#include "einforge/kernels/cuda/ceil_div.h"
#include "einforge/kernels/cuda/contiguous_span.h"
#include "einforge/kernels/cuda/launch.h"
#include "einforge/kernels/cuda/routed_tiles.cuh"

namespace einforge::kernels::cuda {

namespace {

// Threads of the reduction, of a mixture and of one core, whose pieces are few
// and whose splits many.
constexpr int kMixtureThreads = 256;
constexpr int kCoreThreads = 1024;
constexpr int kMostChains = 8;     // of splits, each with a sum of its own
constexpr int kPieceVectors = 32;  // where a piece is not a batch
constexpr int kMostStaged = 48 * 1024;
// Blocks of it for a multiprocessor: few of them work out which splits an
// expert has.
constexpr int kReduceBlocks = 8;

struct ReduceParams {
  struct Core {
    const float4* partials;  // (slots, batch, rows, rho, columns)
    __nv_bfloat16* grad;
    BttCores::Strides strides;
    int64_t expert_stride;
    int vectors;  // of four, of one slot
    int piece;    // of them, that a block sums at once
    int rows;
    int rho;
    int columns;
  };
  Core cores[2];
  int splits;
  RoutedRows routed;
};

// The splits that gave something to this block's expert: [first, second).
template <int kTile>
__device__ int2 splits_with_work(const RoutedRows& rows, int splits) {
  constexpr unsigned kAll = 0xFFFFFFFFU;
  const RoutedTiles<kTile> tiles{rows};
  const int expert = static_cast<int>(blockIdx.y);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  int items = 0;
  int start = 0;
#pragma unroll 1
  for (int first = 0; first < rows.experts; first += 32) {
    const int e = first + lane;
    const int count = tiles.tiles(e);
    items += __reduce_add_sync(kAll, count);
    start += __reduce_add_sync(kAll, e < expert ? count : 0);
  }
  const int end = start + tiles.tiles(expert);
  int2 found{splits, 0};
#pragma unroll 1
  for (int first = 0; first < splits; first += 32) {
    const int s = first + lane;
    const unsigned with_work = __ballot_sync(
        kAll,
        s < splits && start < end && tiles.chunk(items, s, splits) < end &&
            tiles.chunk(items, s + 1, splits) > start);
    if (with_work != 0) {
      found.x = min(found.x, first + __ffs(static_cast<int>(with_work)) - 1);
      found.y = first + 32 - __clz(static_cast<int>(with_work));
    }
  }
  return found;
}

// Where an element of a batch is in shared memory: of neighbours in the partial
// sums, 64 or more elements apart here, few conflict in a bank.
__device__ __forceinline__ unsigned staged_element(unsigned element) {
  const unsigned vector = element / kVector;
  return element ^ ((vector >> 5 ^ vector >> 7) & 7) * kVector;
}

// Of the first of four neighbours in the partial sums.
struct SumPlace {
  unsigned line;  // rows of all batches
  unsigned r;
  unsigned column;

  __device__ SumPlace(const ReduceParams::Core& p, int vector) {
    const unsigned row_size = static_cast<unsigned>(p.rho * p.columns);
    const auto columns = static_cast<unsigned>(p.columns);
    const unsigned index = 4 * static_cast<unsigned>(vector);
    line = index / row_size;
    column = index - line * row_size;
    r = p.rho == 1 ? 0 : column / columns;
    column -= r * columns;
  }
};

// Four sums of a batch that a block puts together.
__device__ __forceinline__ void stage_sums(
    const ReduceParams::Core& p,
    int vector,
    const float4& sum,
    __nv_bfloat16* batch) {
  const SumPlace place(p, vector);
  const auto step = static_cast<unsigned>(p.strides.phi);
  unsigned at = place.line * static_cast<unsigned>(p.strides.in) +
                place.r * static_cast<unsigned>(p.strides.rho) +
                place.column * step;
  if (step == 1) {
    *reinterpret_cast<uint2*>(batch + staged_element(at)) = {
        ptx::round_pair(sum.x, sum.y), ptx::round_pair(sum.z, sum.w)};
    return;
  }
  for (const float value : {sum.x, sum.y, sum.z, sum.w}) {
    batch[staged_element(at)] = __float2bfloat16_rn(value);
    at += step;
  }
}

// Four sums of any layout.
__device__ __forceinline__ void write_sums(
    const ReduceParams::Core& p,
    int vector,
    const float4& sum,
    __nv_bfloat16* grad) {
  SumPlace place(p, vector);
  const auto rows = static_cast<unsigned>(p.rows);
  grad +=
      place.line / rows * p.strides.gamma + place.line % rows * p.strides.in;
  for (const float value : {sum.x, sum.y, sum.z, sum.w}) {
    grad[place.r * p.strides.rho + place.column * p.strides.phi] =
        __float2bfloat16_rn(value);
    if (++place.column == static_cast<unsigned>(p.columns)) {
      place.column = 0;
      ++place.r;
    }
  }
}

__device__ __forceinline__ void add(float4& sum, const float4& v) {
  sum.x += v.x;
  sum.y += v.y;
  sum.z += v.z;
  sum.w += v.w;
}

// Sums the splits in a fixed order: every chain its own, then the chains.
// kStaged: a piece is a batch, whose gradient is a contiguous span of memory.
template <bool kRouted, bool kStaged>
__global__ void __launch_bounds__(kRouted ? kMixtureThreads : kCoreThreads)
    btt_weight_grad_reduce(const __grid_constant__ ReduceParams all) {
  // A mixture has many pieces of few splits, a core few of many. Pieces that
  // are not batches are too small for more than one vector a thread.
  constexpr int kAtOnce = kRouted && kStaged ? 4 : 1;
  constexpr int kUnroll = kRouted ? 1 : 8;
  extern __shared__ uint4 staged[];
  __shared__ float4 chain_sums[kRouted ? kMixtureThreads : kCoreThreads];
  const ReduceParams::Core& p = all.cores[blockIdx.z];
  const auto thread = static_cast<int>(threadIdx.x);
  const auto threads = static_cast<int>(blockDim.x);
  const auto expert = static_cast<int>(blockIdx.y);
  int2 splits{0, all.splits};
  if constexpr (kRouted) {
    splits = splits_with_work<kBackwardTokens>(all.routed, all.splits);
  }
  // Vectors side by side; where there are more chains than one, a whole piece.
  const int width = min(p.piece, threads);
  const int chains = min(kMostChains, threads / width);
  const int chain = thread / width;
  const int mine = thread % width;
  const int first_split = chain < chains ? splits.x + chain : splits.y;
  const int pieces = (p.vectors + p.piece - 1) / p.piece;
  ptx::grid_dependency_sync();
  for (int piece = static_cast<int>(blockIdx.x); piece < pieces;
       piece += static_cast<int>(gridDim.x)) {
    const int begin = piece * p.piece;
    const int count = min(p.piece, p.vectors - begin);
    const float4* partials =
        p.partials + static_cast<int64_t>(expert) * p.vectors + begin;
    __nv_bfloat16* grad = p.grad + expert * p.expert_stride;
    for (int base = 0; base < count; base += kAtOnce * width) {
      float4 sums[kAtOnce] = {};
#pragma unroll kUnroll
      for (int s = first_split; s < splits.y; s += chains) {
        const float4* from = partials + static_cast<int64_t>(s) * p.vectors;
        float4 values[kAtOnce];
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
          values[i] = __ldcs(from + min(base + i * width + mine, count - 1));
        }
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
          add(sums[i], values[i]);
        }
      }
      if (chains > 1) {
        chain_sums[thread] = sums[0];
        __syncthreads();
        for (int c = 1; chain == 0 && c < chains; ++c) {
          add(sums[0], chain_sums[c * width + mine]);
        }
      }
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const int vector = base + i * width + mine;
        if (chain == 0 && vector < count) {
          if constexpr (kStaged) {
            stage_sums(
                p, vector, sums[i], reinterpret_cast<__nv_bfloat16*>(staged));
          } else {
            write_sums(p, begin + vector, sums[i], grad);
          }
        }
      }
    }
    __syncthreads();
    if constexpr (kStaged) {
      auto* to = reinterpret_cast<uint4*>(grad + piece * p.strides.gamma);
      for (int i = thread; i < count / 2; i += threads) {
        to[i] = staged
            [staged_element(static_cast<unsigned>(i) * kVector) / kVector];
      }
      __syncthreads();
    }
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
        .group_blocks = static_cast<int>(ceil_div(s.batch, v.groups * kVector)),
        .row_blocks = static_cast<int>(ceil_div(s.rows, v.rows)),
        .column_blocks =
            static_cast<int>(ceil_div(s.rho * s.columns, v.columns)),
        .stages = fit == 5 ? 4 : fit};
    const int64_t bytes = static_cast<int64_t>(grid.tiles()) * v.stage_bytes;
    if (best.variant == nullptr || bytes < least) {
      best = grid;
      least = bytes;
    }
  }
  if (best.variant != nullptr) {
    // One wave; a split of fewer than four steps would mostly wait.
    const int64_t steps = ceil_div(tokens, kStepTokens);
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
  const RoutedRows& rows = partials.rows;
  ReduceParams params{.cores = {}, .splits = partials.splits, .routed = rows};
  int cores = 0;
  int batches = 0;
  int most_elements = 0;  // of a batch
  bool staged = true;
  for (const BttPartials::Core& core : partials.cores) {
    if (core.grad == nullptr) {
      continue;
    }
    const BttWeightGradSizes& s = core.sizes;
    const int elements = s.rows * s.rho * s.columns;
    params.cores[cores++] = {
        .partials = reinterpret_cast<const float4*>(core.sums),
        .grad = core.grad,
        .strides = core.strides,
        .expert_stride = core.expert_stride,
        .vectors = s.batch * (elements / 4),
        .piece = elements / 4,
        .rows = s.rows,
        .rho = s.rho,
        .columns = s.columns};
    batches += s.batch;
    most_elements = std::max(most_elements, elements);
    staged = staged && s.columns % 4 == 0 && elements % kVector == 0 &&
             is_contiguous_span(
                 {{{s.rows, core.strides.in},
                   {s.rho, core.strides.rho},
                   {s.columns, core.strides.phi}}}) &&
             are_aligned(
                 core.grad,
                 {{{s.batch, core.strides.gamma},
                   {rows.experts, core.expert_stride}}});
  }
  // Shared memory by eight vectors, among which elements change places.
  const int bytes = static_cast<int>(ceil_div(most_elements, 64)) * 128;
  // Batches are too few to be pieces of a small core.
  staged = staged && bytes <= kMostStaged &&
           2 * batches * rows.experts >= limits.multiprocessors;
  unsigned most_pieces = 0;
  for (ReduceParams::Core& core : params.cores) {
    core.piece = staged ? core.piece : kPieceVectors;
    most_pieces =
        std::max(most_pieces, ceil_div(core.vectors, std::max(core.piece, 1)));
  }
  const bool routed = rows.offsets != nullptr;
  Launch configured(
      routed || !staged ? kMixtureThreads : kCoreThreads,
      staged ? bytes : 0,
      stream);
  if (limits.major >= 9) {
    configured.enable_pdl();
  }
  const auto kernel = routed ? (staged ? btt_weight_grad_reduce<true, true>
                                       : btt_weight_grad_reduce<true, false>)
                             : (staged ? btt_weight_grad_reduce<false, true>
                                       : btt_weight_grad_reduce<false, false>);
  return configured.run(
      kernel,
      {std::min(
           most_pieces,
           ceil_div(
               static_cast<int64_t>(kReduceBlocks) * limits.multiprocessors,
               static_cast<int64_t>(rows.experts) * cores)),
       static_cast<unsigned>(rows.experts),
       static_cast<unsigned>(cores)},
      params);
}

}  // namespace einforge::kernels::cuda
