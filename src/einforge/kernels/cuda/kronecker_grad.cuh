#pragma once

#include "einforge/kernels/cuda/kronecker_tokens.cuh"

// The gradients of the cores of
//
//   out[u,v] = sum_{i,s,r} first[i,u,r] second[s,v,r] in[i,s]
//
// where each is a product with what the other core makes of a token:
//
//   dz = dout second^T:  dfirst[u,i] = sum_t dz (u x s) in^T (s x i)
//   z^T = in^T first:    dsecond[s,v] = sum_t z^T (s x u) dout (u x v)
//
// A warp has one side, up to 32 rows of its gradient and one r, and sums over
// tokens in registers. A warp group has all sides and rows and some of
// r, and its own tokens, which come by cp.async through a ring of its own: with
// rank 1 there are many small warp groups, with a high rank one large. The sums
// of dz or z^T are rounded in place to the left operand of the second product.
//
// Rank beyond a warp group is divided among blocks, which read the same tokens
// at about the same time. In the end the warp groups of a block reduce in
// shared memory, and each block leaves its partial sums for a second kernel,
// all in a fixed order.
namespace einforge::kernels::cuda {

inline constexpr int kGradStages = 4;

struct KroneckerGradParams {
  const __nv_bfloat16* in;
  const __nv_bfloat16* dout;
  KroneckerCore first;
  KroneckerCore second;
  float* first_partials;   // (splits, u, rho, i)
  float* second_partials;  // (splits, s, rho, v)
  int64_t tokens;
  int rho;
  int ranks;         // of a block
  int groups;        // of blocks, by rank
  int splits;        // of the tokens, among the blocks of a group
  int warp_groups;   // of a block
  int stage_tokens;  // of a warp group
};

// One side: left (rows x depth) times core (depth x middle) times right
// (middle x columns). In memory left and right lie so, or, kTransposed, left
// and not right is transposed; without it right and not left is.
template <
    int kAllRows,
    int kDepth_,
    int kMiddle_,
    int kColumns_,
    bool kTransposed_>
struct KroneckerSide {
  static constexpr int kDepth = kDepth_;
  static constexpr int kMiddle = kMiddle_;
  static constexpr int kColumns = kColumns_;
  static constexpr bool kTransposed = kTransposed_;
  static constexpr int kRows = kAllRows < 32 ? kAllRows : 32;  // of a warp
  static constexpr int kSlices = kAllRows / kRows;
  static constexpr int kSums = kRows * kColumns / 32;  // of a thread
  static constexpr int kCoreBytes = 2 * kDepth * kMiddle;
  using Left = std::conditional_t<
      kTransposed,
      TokenMatrix<kDepth, kAllRows>,
      TokenMatrix<kAllRows, kDepth>>;
  using Right = std::conditional_t<
      kTransposed,
      TokenMatrix<kMiddle, kColumns>,
      TokenMatrix<kColumns, kMiddle>>;
};

template <int kI, int kS, int kU, int kV>
struct KroneckerGradTile {
  using First = KroneckerSide<kU, kV, kS, kI, /*kTransposed=*/false>;
  using Second = KroneckerSide<kS, kI, kU, kV, /*kTransposed=*/true>;
  using In = TokenMatrix<kI, kS>;
  using Out = TokenMatrix<kU, kV>;
  static constexpr int kUnits = First::kSlices + Second::kSlices;  // of one r
  static constexpr int kTokenBytes = In::kBytes + Out::kBytes;
  static constexpr int kCoreBytes = First::kCoreBytes + Second::kCoreBytes;
  static constexpr int kMostSums =
      First::kSums > Second::kSums ? First::kSums : Second::kSums;
  static constexpr int kMostWarps = kMostSums > 32 ? 12 : 16;
};

template <class Tile>
struct KroneckerGrad {
  using First = typename Tile::First;
  using Second = typename Tile::Second;
  using In = typename Tile::In;
  using Out = typename Tile::Out;

  const KroneckerGradParams& p;
  int lane = static_cast<int>(threadIdx.x) % 32;
  int group_warps;
  int warp_group;
  int member;
  int first_rank;
  int split;
  uint32_t rings;
  uint32_t ring;
  uint32_t first_core;   // of dz: the second core
  uint32_t second_core;  // of z: the first core

  __device__ KroneckerGrad(const KroneckerGradParams& params, uint32_t shared)
      : p(params),
        group_warps(p.ranks * Tile::kUnits),
        warp_group(static_cast<int>(threadIdx.x) / 32 / group_warps),
        member(static_cast<int>(threadIdx.x) / 32 % group_warps),
        first_rank(static_cast<int>(blockIdx.x) % p.groups * p.ranks),
        split(static_cast<int>(blockIdx.x) / p.groups),
        rings(shared + p.ranks * Tile::kCoreBytes),
        ring(rings + warp_group * kGradStages * stage_bytes()),
        first_core(shared),
        second_core(shared + p.ranks * First::kCoreBytes) {}

  __device__ int stage_bytes() const {
    return p.stage_tokens * Tile::kTokenBytes;
  }

  // The first token of a warp group's n-th stage.
  __device__ int64_t stage_start(int64_t n, int of_group) const {
    return ((n * p.warp_groups + of_group) * p.splits + split) * p.stage_tokens;
  }

  __device__ void fetch(int64_t n, int slot) const {
    const int64_t start = stage_start(n, warp_group);
    for (int t = 0; t < p.stage_tokens && start + t < p.tokens; ++t) {
      const uint32_t to = ring + slot * stage_bytes() + t * Tile::kTokenBytes;
      In::copy(to, p.in + (start + t) * (In::kBytes / 2), member, group_warps);
      Out::copy(
          to + In::kBytes,
          p.dout + (start + t) * (Out::kBytes / 2),
          member,
          group_warps);
    }
    ptx::copy_async_commit();
  }

  // Of a warp of either side, so that both come to the same barriers with them.
  using Sums = float[Tile::kMostSums / 8][2][4];

  // A warp's work: some of a side's rows and one r.
  template <class Side>
  struct Unit {
    static constexpr int kRowSquares = Side::kRows / 16;
    static constexpr int kDepthSquares = Side::kDepth / 16;
    static constexpr int kMiddleSquares = Side::kMiddle / 16;
    static constexpr int kColumnSquares = Side::kColumns / 16;
    // Whether the core stays in registers.
    static constexpr bool kResident = kDepthSquares * kMiddleSquares <= 4;

    uint32_t core;  // a lane's first vector
    uint4 resident[kResident ? kMiddleSquares : 1][kDepthSquares];
    Sums& sums;

    __device__ Unit(uint32_t core_, Sums& sums_) : core(core_), sums(sums_) {
      if constexpr (kResident) {
#pragma unroll
        for (int m = 0; m < kMiddleSquares; ++m) {
          load_core(m, resident[m]);
        }
      }
#pragma unroll
      for (int i = 0; i < kRowSquares * kColumnSquares; ++i) {
        clear(sums[i]);
      }
    }

    __device__ void load_core(int middle, uint4 (&to)[kDepthSquares]) const {
#pragma unroll
      for (int k = 0; k < kDepthSquares; ++k) {
        to[k] = ptx::load_shared(core + 512 * (middle * kDepthSquares + k));
      }
    }

    // Adds a token, given a lane's places in the first squares of the left rows
    // and of the right matrix.
    __device__ void add(uint32_t left_at, uint32_t right_at) {
      uint4 left[kRowSquares][kDepthSquares];
#pragma unroll
      for (int row = 0; row < kRowSquares; ++row) {
#pragma unroll
        for (int k = 0; k < kDepthSquares; ++k) {
          left[row][k] =
              Side::kTransposed
                  ? load_square<true>(Side::Left::square(left_at, k, row))
                  : load_square<false>(Side::Left::square(left_at, row, k));
        }
      }
#pragma unroll
      for (int m = 0; m < kMiddleSquares; ++m) {
        uint4 loaded[kDepthSquares];
        const uint4(&weights)[kDepthSquares] = kResident ? resident[m] : loaded;
        if constexpr (!kResident) {
          load_core(m, loaded);
        }
        uint4 z[kRowSquares];
#pragma unroll
        for (int row = 0; row < kRowSquares; ++row) {
          float z_sums[2][4];
          clear(z_sums);
#pragma unroll
          for (int k = 0; k < kDepthSquares; ++k) {
            multiply(z_sums, left[row][k], weights[k]);
          }
          z[row] = as_left(z_sums);
        }
#pragma unroll
        for (int column = 0; column < kColumnSquares; ++column) {
          const uint4 right =
              Side::kTransposed
                  ? load_square<true>(Side::Right::square(right_at, m, column))
                  : load_square<false>(
                        Side::Right::square(right_at, column, m));
#pragma unroll
          for (int row = 0; row < kRowSquares; ++row) {
            multiply(sums[row * kColumnSquares + column], z[row], right);
          }
        }
      }
    }
  };

  // Reduces the warp groups of the block, the upper half onto the lower one
  // until one is left; the first `vectors` of a thread's sums.
  __device__ void reduce_warp_groups(Sums& sums, int vectors) const {
    constexpr uint32_t kWarpBytes = 128 * Tile::kMostSums;
    const auto place = [&](int of_group, int i) {
      return rings + (of_group * group_warps + member) * kWarpBytes +
             16 * (32 * i + lane);
    };
    for (int count = p.warp_groups; count > 1;) {
      const int half = (count + 1) / 2;
      __syncthreads();
      if (warp_group >= half && warp_group < count) {
#pragma unroll
        for (int i = 0; i < Tile::kMostSums / 4; ++i) {
          if (i < vectors) {
            const float(&v)[4] = sums[i / 2][i % 2];
            ptx::store_shared(
                place(warp_group - half, i),
                {__float_as_uint(v[0]),
                 __float_as_uint(v[1]),
                 __float_as_uint(v[2]),
                 __float_as_uint(v[3])});
          }
        }
      }
      __syncthreads();
      if (warp_group < count - half) {
#pragma unroll
        for (int i = 0; i < Tile::kMostSums / 4; ++i) {
          if (i < vectors) {
            float(&v)[4] = sums[i / 2][i % 2];
            const uint4 other = ptx::load_shared(place(warp_group, i));
            v[0] += __uint_as_float(other.x);
            v[1] += __uint_as_float(other.y);
            v[2] += __uint_as_float(other.z);
            v[3] += __uint_as_float(other.w);
          }
        }
      }
      count = half;
    }
  }

  template <class Side>
  __device__ void store(
      const Sums& sums, int slice, int r, float* partials) const {
    constexpr int kColumnSquares = Side::kColumns / 16;
    partials += static_cast<int64_t>(split) * Side::kSlices * Side::kRows *
                p.rho * Side::kColumns;
#pragma unroll
    for (int i = 0; i < Side::kSums / 4; ++i) {
      const float(&v)[4] = sums[i / 2][i % 2];
      const int row =
          slice * Side::kRows + i / 2 / kColumnSquares * 16 + lane / 4;
      const int column =
          i / 2 % kColumnSquares * 16 + i % 2 * 8 + 2 * (lane % 4);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        *reinterpret_cast<float2*>(
            partials +
            (static_cast<int64_t>(row + 8 * half) * p.rho + r) *
                Side::kColumns +
            column) = {v[2 * half], v[2 * half + 1]};
      }
    }
  }

  template <class Side>
  __device__ void add_tokens(
      int slice,
      int rank,
      uint32_t core,
      uint32_t left,
      uint32_t right,
      Sums& sums) {
    Unit<Side> unit(core + rank * Side::kCoreBytes + 16 * lane, sums);
    const int first_square = slice * unit.kRowSquares;
    left = Side::kTransposed
               ? Side::Left::square(
                     left + Side::Left::across_first(lane), 0, first_square)
               : Side::Left::square(
                     left + Side::Left::down_first(lane), first_square, 0);
    right += Side::kTransposed ? Side::Right::down_first(lane)
                               : Side::Right::across_first(lane);
    int slot = 0;
    int free_slot = kGradStages - 1;
    // All warp groups have as many stages, the last of some without tokens:
    // racecheck cannot match the barriers otherwise.
    for (int64_t n = 0; stage_start(n, 0) < p.tokens; ++n) {
      wait_for_oldest(kGradStages);
      sync_warp_group(warp_group, group_warps);
      fetch(n + kGradStages - 1, free_slot);
      if (first_rank + rank < p.rho) {
        const int64_t rest = p.tokens - stage_start(n, warp_group);
        uint32_t token = ring + slot * stage_bytes();
#pragma unroll 1
        for (int t = 0; t < p.stage_tokens && t < rest; ++t) {
          unit.add(token + left, token + right);
          token += Tile::kTokenBytes;
        }
      }
      free_slot = slot;
      slot = slot + 1 == kGradStages ? 0 : slot + 1;
    }
  }

  __device__ void run() {
    for (int i = 0; i + 1 < kGradStages; ++i) {
      fetch(i, i);
    }
    const int ranks = min(p.ranks, p.rho - first_rank);
    pack_core</*kLeft=*/false, /*kInterleaved=*/false, /*kDepthFirst=*/false>(
        first_core,
        p.second.transposed(),
        First::kDepth / 16,
        First::kMiddle / 16,
        first_rank,
        ranks);
    pack_core</*kLeft=*/false, /*kInterleaved=*/false, /*kDepthFirst=*/false>(
        second_core,
        p.first,
        Second::kDepth / 16,
        Second::kMiddle / 16,
        first_rank,
        ranks);
    __syncthreads();
    const int part = member % Tile::kUnits;
    const int rank = member / Tile::kUnits;
    const bool is_first = part < First::kSlices;
    Sums sums;
    if (is_first) {
      add_tokens<First>(part, rank, first_core, In::kBytes, 0, sums);
    } else {
      add_tokens<Second>(
          part - First::kSlices, rank, second_core, 0, In::kBytes, sums);
    }
    reduce_warp_groups(sums, (is_first ? First::kSums : Second::kSums) / 4);
    const int r = first_rank + rank;
    if (warp_group > 0 || r >= p.rho) {
      return;
    }
    if (is_first) {
      store<First>(sums, part, r, p.first_partials);
    } else {
      store<Second>(sums, part - First::kSlices, r, p.second_partials);
    }
  }
};

template <class Tile>
__global__ void __launch_bounds__(32 * Tile::kMostWarps, 1)
    kronecker_grad_partials(
        const __grid_constant__ KroneckerGradParams params) {
  extern __shared__ __align__(128) uint4 shared_tokens[];
  KroneckerGrad<Tile> kernel(params, ptx::shared_address(shared_tokens));
  kernel.run();
}

}  // namespace einforge::kernels::cuda
