#include <algorithm>

#include "einforge/kernels/cuda/ceil_div.h"
#include "einforge/kernels/cuda/merge.h"
#include "einforge/kernels/cuda/ptx.cuh"

namespace einforge::kernels::cuda {

namespace {

// Two indices of a core, (delta, alpha) or (epsilon, beta), as one.
struct IndexPair {
  int out = 1;
  int in = 1;
  int out_in_w = 0;  // strides in grad_w
  int in_in_w = 0;
  MergeCoreStrides core;

  [[nodiscard]] __host__ __device__ int size() const { return out * in; }
  [[nodiscard]] __device__ int in_w(int index) const {
    return index / in * out_in_w + index % in * in_in_w;
  }
  [[nodiscard]] __device__ int64_t in_core(int index) const {
    return index / in * core.out + index % in * core.in;
  }
  // Whether ranks lie closer together in the core than the pair's elements:
  // neighbouring threads are to have neighbours in memory.
  [[nodiscard]] __device__ bool ranks_are_inner() const {
    return core.rho < (in > 1 ? core.in : core.out);
  }
};

constexpr int kVector = 8;  // elements of 16 bytes
constexpr int kRanks = 4;   // of a block
constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;
constexpr int kRows = 16;    // of a warp
constexpr int kBatch = 2;    // products of a warp whose loads are on their way
constexpr int kDepth = 128;  // of the sum, between barriers

// For each phi and gamma, grad (kept x rho) is the product of elements of
// grad_w (kept x summed) and the other core (summed x rho).
struct CoreGradient {
  IndexPair kept;    // strides of grad
  IndexPair summed;  // strides of the other core
  const __nv_bfloat16* other;
  __nv_bfloat16* grad;

  // Warps of a block, each with rows of its own; the others have slices of the
  // sum.
  [[nodiscard]] __host__ __device__ int row_warps() const {
    return kept.size() > 2 * kRows ? 4 : kept.size() > kRows ? 2 : 1;
  }
};

struct GradientParams {
  CoreGradient cores[2];
  int wanted;  // of the cores
  const __nv_bfloat16* grad_w;
  int d_in;
  int phi;
  int rho;
  int rank_blocks;
  int gamma_blocks;
};

// gamma is a batch of these products and innermost in memory, which
// mma.m16n8k16 has no room for. So the inner index of an mma is some elements
// of the sum and some gamma, pairs as they lie in grad_w; its columns are the
// same gamma and some ranks; and the other core's operand is zero where the two
// gamma differ. A vector's four pairs are four products.
//
// Lane 4 j + q has rows j and j + 8 and vector q % kVectors of a few elements
// of the sum, so that kVectors lanes read one piece of memory. A gamma of
// grad_w that is not finite reaches the others of its product.
template <int kVectors>
struct GradientTile {
  static constexpr int kGamma = kVector * kVectors;  // of a block
  static constexpr int kMmaGamma = 2 * kVectors;
  static constexpr int kMmaRanks = 8 / kMmaGamma;
  static constexpr int kMmas = kRanks / kMmaRanks;
  static constexpr int kHalfDepth = 8 / kMmaGamma;
  static constexpr int kMmaDepth = 2 * kHalfDepth;
  static constexpr int kBatchDepth = kBatch * kMmaDepth;
  static_assert(kDepth % kBatchDepth == 0);

  struct Other {
    uint4 vectors[kRanks][kDepth][kVectors];
    int in_w[kDepth];
  };
  using Sums = float[kGamma][kRanks][kRows];
  union Shared {
    Other other;
    Sums sums[kWarps];
  };

  // A row's place in the sums: a warp writes eight rows of some gamma and ranks
  // at once and reads eight rows of all ranks, neither from one bank twice.
  __device__ static int place(int gamma, int rank, int row) {
    return row ^ ((gamma / kVector ^ rank / 2) & 1) * 8;
  }

  // Up to kDepth elements of the other core, from `first` of `pair` on.
  __device__ static void load_other(
      Other& to,
      const IndexPair& pair,
      const __nv_bfloat16* from,
      int first,
      int ranks) {
    const int count = min(kDepth, pair.size() - first);
    // Zeros to the end of a batch.
    const int filled = (count + kBatchDepth - 1) / kBatchDepth * kBatchDepth;
    const bool ranks_are_inner = pair.ranks_are_inner();
    const int vector_items = filled * kRanks;
    for (int item = static_cast<int>(threadIdx.x);
         item < vector_items * kVectors;
         item += kThreads) {
      const int vector = item / vector_items;
      const int i = item % vector_items;
      const int k = ranks_are_inner ? i / kRanks : i % filled;
      const int rank = ranks_are_inner ? i % kRanks : i / filled;
      uint4 values{};
      if (k < count && rank < ranks) {
        const auto* at = reinterpret_cast<const unsigned short*>(
            from + pair.in_core(first + k) + rank * pair.core.rho +
            vector * kVector * pair.core.gamma);
        unsigned short gamma[kVector];
#pragma unroll
        for (int g = 0; g < kVector; ++g) {
          gamma[g] = __ldg(at + g * pair.core.gamma);
        }
        values = {
            ptx::low_pair(gamma[0], gamma[1]),
            ptx::low_pair(gamma[2], gamma[3]),
            ptx::low_pair(gamma[4], gamma[5]),
            ptx::low_pair(gamma[6], gamma[7])};
      }
      to.vectors[rank][k][vector] = values;
    }
    // Where there are none, any that exists: its factor is zero.
    for (int k = static_cast<int>(threadIdx.x); k < filled; k += kThreads) {
      to.in_w[k] = pair.in_w(first + min(k, count - 1));
    }
  }
};

__device__ uint4 load_vector(const __nv_bfloat16* from) {
  return __ldg(reinterpret_cast<const uint4*>(from));
}

__device__ uint4 masked(const uint4& v, uint32_t mask) {
  return {v.x & mask, v.y & mask, v.z & mask, v.w & mask};
}

// One product for each pair of gamma of a lane's vectors.
__device__ void add_products(
    float (&sums)[kVector / 2][4],
    const uint4 (&first)[2],
    const uint4 (&second)[2],
    const uint4& right_first,
    const uint4& right_second) {
#pragma unroll
  for (int i = 0; i < kVector / 2; ++i) {
    ptx::mma(
        sums[i],
        {ptx::word(first[0], i),
         ptx::word(first[1], i),
         ptx::word(second[0], i),
         ptx::word(second[1], i)},
        ptx::word(right_first, i),
        ptx::word(right_second, i));
  }
}

// A block has up to 64 of the kept index, kRanks and a few gamma, of one phi,
// and the whole sum.
template <int kVectors>
__global__ void __launch_bounds__(kThreads, 2)
    merge_gradient_sums(const __grid_constant__ GradientParams p) {
  using Tile = GradientTile<kVectors>;
  __shared__ typename Tile::Shared shared;
  const CoreGradient& core = p.cores[static_cast<int>(blockIdx.x) % p.wanted];
  int rest = static_cast<int>(blockIdx.x) / p.wanted;
  const int first_rank = rest % p.rank_blocks * kRanks;
  rest /= p.rank_blocks;
  const int first_gamma = rest % p.gamma_blocks * Tile::kGamma;
  rest /= p.gamma_blocks;
  const int phi = rest % p.phi;
  const int row_warps = core.row_warps();
  const int block_rows = row_warps * kRows;
  const int first_row = rest / p.phi * block_rows;
  const int rows = core.kept.size() - first_row;
  if (rows <= 0) {
    return;
  }
  const int ranks = p.rho - first_rank;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int slices = kWarps / row_warps;
  const int j = lane / 4;
  const int q = lane % 4;
  const int vector = q % kVectors;

  const __nv_bfloat16* from_w[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = min(warp % row_warps * kRows + j + 8 * half, rows - 1);
    from_w[half] = p.grad_w + core.kept.in_w(first_row + row) +
                   static_cast<int64_t>(phi) * p.d_in + first_gamma +
                   vector * kVector;
  }
  const __nv_bfloat16* from_other = core.other + phi * core.summed.core.phi +
                                    first_rank * core.summed.core.rho +
                                    first_gamma * core.summed.core.gamma;
  // Which of a pair column j has.
  const uint32_t mask = j % Tile::kMmaGamma / 2 != vector ? 0U
                        : j % 2 == 0                      ? 0x0000FFFFU
                                                          : 0xFFFF0000U;
  float sums[Tile::kMmas][kVector / 2][4] = {};
  const int depth = core.summed.size();
  for (int first = 0; first < depth; first += kDepth) {
    if (first > 0) {
      __syncthreads();
    }
    Tile::load_other(shared.other, core.summed, from_other, first, ranks);
    __syncthreads();
    const int count = min(kDepth, depth - first);
    for (int start = warp / row_warps * Tile::kBatchDepth; start < count;
         start += slices * Tile::kBatchDepth) {
      const int k = start + q / kVectors;
      uint4 left[2 * kBatch][2];  // of each half product, rows
#pragma unroll
      for (int half = 0; half < 2 * kBatch; ++half) {
        const int in_w = shared.other.in_w[k + half * Tile::kHalfDepth];
        left[half][0] = load_vector(from_w[0] + in_w);
        left[half][1] = load_vector(from_w[1] + in_w);
      }
#pragma unroll
      for (int of_batch = 0; of_batch < kBatch; ++of_batch) {
        const uint4(&first_half)[2] = left[2 * of_batch];
        const uint4(&second_half)[2] = left[2 * of_batch + 1];
#pragma unroll
        for (int m = 0; m < Tile::kMmas; ++m) {
          const auto& others =
              shared.other.vectors[m * Tile::kMmaRanks + j / Tile::kMmaGamma];
          const int at = k + of_batch * Tile::kMmaDepth;
          add_products(
              sums[m],
              first_half,
              second_half,
              masked(others[at][vector], mask),
              masked(others[at + Tile::kHalfDepth][vector], mask));
        }
      }
    }
  }

  __syncthreads();
  // A lane's columns are 2 q and 2 q + 1: a pair of gamma of one rank.
#pragma unroll
  for (int pair = 0; pair < kVector / 2; ++pair) {
#pragma unroll
    for (int m = 0; m < Tile::kMmas; ++m) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int gamma = vector * kVector + 2 * pair + i % 2;
        const int rank = m * Tile::kMmaRanks + q / kVectors;
        shared
            .sums[warp][gamma][rank][Tile::place(gamma, rank, j + i / 2 * 8)] =
            sums[m][pair][i];
      }
    }
  }
  __syncthreads();
  const int of_a_gamma = kRanks * block_rows;
  const int i = static_cast<int>(threadIdx.x) % of_a_gamma;
  const bool ranks_are_inner = core.kept.ranks_are_inner();
  const int row = ranks_are_inner ? i / kRanks : i % block_rows;
  const int rank = ranks_are_inner ? i % kRanks : i / block_rows;
  if (row >= rows || rank >= ranks) {
    return;
  }
  const MergeCoreStrides& strides = core.kept.core;
  __nv_bfloat16* to = core.grad + core.kept.in_core(first_row + row) +
                      phi * strides.phi + (first_rank + rank) * strides.rho +
                      first_gamma * strides.gamma;
  for (int gamma = static_cast<int>(threadIdx.x) / of_a_gamma;
       gamma < Tile::kGamma;
       gamma += kThreads / of_a_gamma) {
    float total = 0.0F;
    for (int slice = 0; slice < slices; ++slice) {
      total += shared.sums[slice * row_warps + row / kRows][gamma][rank]
                          [Tile::place(gamma, rank, row % kRows)];
    }
    to[gamma * strides.gamma] = __float2bfloat16(total);
  }
}

template <int kVectors>
cudaError_t launch(
    const MergeSizes& n, GradientParams& params, cudaStream_t stream) {
  params.gamma_blocks = n.gamma / GradientTile<kVectors>::kGamma;
  unsigned row_blocks = 0;
  for (int i = 0; i < params.wanted; ++i) {
    const CoreGradient& core = params.cores[i];
    row_blocks = std::max(
        row_blocks, ceil_div(core.kept.size(), kRows * core.row_warps()));
  }
  const auto blocks = static_cast<unsigned>(
      params.wanted * params.rank_blocks * params.gamma_blocks * params.phi);
  merge_gradient_sums<kVectors>
      <<<blocks * row_blocks, kThreads, 0, stream>>>(params);
  return cudaGetLastError();
}

}  // namespace

cudaError_t merge_gradients(
    const MergeSizes& n,
    const __nv_bfloat16* grad_w,
    const MergeCore& a,
    const MergeCore& b,
    const MergeCoreGradient& grad_a,
    const MergeCoreGradient& grad_b,
    cudaStream_t stream) {
  if (!merge_supports(n)) {
    return cudaErrorInvalidValue;
  }
  const auto d_in = static_cast<int>(n.d_in());
  const auto of_a = [&](const MergeCoreStrides& strides) -> IndexPair {
    return {
        n.delta, n.alpha, n.epsilon * n.phi * d_in, n.beta * n.gamma, strides};
  };
  const auto of_b = [&](const MergeCoreStrides& strides) -> IndexPair {
    return {n.epsilon, n.beta, n.phi * d_in, n.gamma, strides};
  };
  GradientParams params{};
  params.grad_w = grad_w;
  params.d_in = d_in;
  params.phi = n.phi;
  params.rho = n.rho;
  params.rank_blocks = static_cast<int>(ceil_div(n.rho, kRanks));
  if (grad_a.data != nullptr) {
    params.cores[params.wanted++] = {
        of_a(grad_a.strides), of_b(b.strides), b.data, grad_a.data};
  }
  if (grad_b.data != nullptr) {
    params.cores[params.wanted++] = {
        of_b(grad_b.strides), of_a(a.strides), a.data, grad_b.data};
  }
  if (params.wanted == 0) {
    return cudaSuccess;
  }
  // Pieces of 32 bytes, which is what memory moves, where gamma has them.
  return n.gamma % (2 * kVector) == 0 ? launch<2>(n, params, stream)
                                      : launch<1>(n, params, stream);
}

}  // namespace einforge::kernels::cuda
