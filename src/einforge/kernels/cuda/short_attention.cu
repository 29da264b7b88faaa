#include "einforge/kernels/cuda/short_attention.h"

#include <algorithm>

#include "einforge/kernels/cuda/column_sums.h"
#include "einforge/kernels/cuda/ptx.cuh"
#include "einforge/kernels/cuda/row_norm.cuh"
#include "einforge/kernels/cuda/vec8.cuh"

namespace einforge::kernels::cuda {

namespace {

constexpr int kHead = 64;               // elements of a row
constexpr int kTime = 128;              // rows
constexpr int kSide = 16;               // of a block of scores
constexpr int kBlocks = kTime / kSide;  // of rows
constexpr int kParts = kHead / kSide;   // of a row
constexpr int kLanes = kHead / 8;       // of a row, each with a vector
constexpr int kRowBytes = 2 * kHead;
constexpr int kTileBytes = kTime * kRowBytes;
// Tiles of shared memory.
constexpr int kQueries = 0;
constexpr int kKeys = kTileBytes;
constexpr int kValues = 2 * kTileBytes;
constexpr int kGrads = 3 * kTileBytes;  // backward alone
constexpr float kLog2E = 1.4426950408889634F;

__device__ __forceinline__ float power_of_2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ int lane_id() {
  return static_cast<int>(threadIdx.x) % 32;
}

// Where a vector of a row of a tile is in shared memory: such that neither
// those of one row nor those of one column meet in a bank.
__device__ __forceinline__ uint32_t place(uint32_t tile, int row, int vector) {
  return tile +
         static_cast<uint32_t>(row * kRowBytes + ((vector ^ (row % 8)) * 16));
}

// Where a lane finds its vector of a block of rows, the first 16 columns of it,
// in the tile that comes first.
struct Places {
  uint32_t plain;
  uint32_t turned;

  __device__ explicit Places(uint32_t tiles) {
    const int lane = lane_id();
    plain = place(tiles, lane % 16, lane / 16);
    turned = place(tiles, (lane / 16) * 8 + lane % 8, (lane / 8) % 2);
  }

  // What is computed from them is not kept from before here: it would take all
  // registers.
  __device__ __forceinline__ void forget() {
    asm volatile("" : "+r"(plain), "+r"(turned));
  }
};

constexpr int kBlockBytes = kSide * kRowBytes;

// Of a place, with a tile's distance from the first one.
__device__ __forceinline__ uint32_t
moved_to(uint32_t from, int tile, int block, int part) {
  return (from ^ static_cast<uint32_t>(2 * kSide * part)) +
         static_cast<uint32_t>(tile + block * kBlockBytes);
}

// A block of rows of a tile, 16 columns of it, as a left operand.
__device__ __forceinline__ uint4
left(const Places& places, int tile, int block, int part) {
  uint4 v;
  ptx::load_matrix(
      moved_to(places.plain, tile, block, part), v.x, v.y, v.z, v.w);
  return v;
}

// The same transposed, as two right operands side by side.
__device__ __forceinline__ uint4
right_of_rows(const Places& places, int tile, int block, int part) {
  uint4 v;
  ptx::load_matrix(
      moved_to(places.turned, tile, block, part), v.x, v.y, v.z, v.w);
  return v;
}

// As it is, as two right operands side by side.
__device__ __forceinline__ uint4
right(const Places& places, int tile, int block, int part) {
  uint4 v;
  ptx::load_matrix_transposed(
      moved_to(places.plain, tile, block, part), v.x, v.y, v.z, v.w);
  return v;
}

// A lane has of a block rows lane / 4 (values 0, 1) and 8 below (2, 3), and
// columns 2 (lane % 4) and the next, of each 8 columns.
using Block = float[2][4];         // 16 x 16
using Rows = float[kHead / 8][4];  // 16 x 64
using Left = uint4[kParts];        // 16 x 64, as a left operand

__device__ __forceinline__ void load_left(
    Left& rows, const Places& places, int tile, int block) {
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
    rows[part] = left(places, tile, block, part);
  }
}

// result = rows (block of tile)^T
__device__ __forceinline__ void multiply_rows(
    Block& result,
    const Left& rows,
    const Places& places,
    int tile,
    int block) {
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    result[i / 4][i % 4] = 0.0F;
  }
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
    const uint4 b = right_of_rows(places, tile, block, part);
    ptx::mma(result[0], rows[part], b.x, b.y);
    ptx::mma(result[1], rows[part], b.z, b.w);
  }
}

// sum += (values, rounded) (block of tile)
__device__ __forceinline__ void add_product(
    Rows& sum, const Block& values, const Places& places, int tile, int block) {
  const uint4 a{
      ptx::round_pair(values[0][0], values[0][1]),
      ptx::round_pair(values[0][2], values[0][3]),
      ptx::round_pair(values[1][0], values[1][1]),
      ptx::round_pair(values[1][2], values[1][3])};
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
    const uint4 b = right(places, tile, block, part);
    ptx::mma(sum[2 * part], a, b.x, b.y);
    ptx::mma(sum[2 * part + 1], a, b.z, b.w);
  }
}

// Of the four lanes that share rows, to all of them.
__device__ __forceinline__ float sum_of_quad(float value) {
  value += __shfl_xor_sync(0xFFFFFFFFU, value, 1);
  return value + __shfl_xor_sync(0xFFFFFFFFU, value, 2);
}
__device__ __forceinline__ float largest_of_quad(float value) {
  value = fmaxf(value, __shfl_xor_sync(0xFFFFFFFFU, value, 1));
  return fmaxf(value, __shfl_xor_sync(0xFFFFFFFFU, value, 2));
}

// exp(scale (score - largest)) of a block of queries with all keys up to it,
// for the lane's two rows the logarithm, to the base of 2, of
// sum exp(scale score), and 1 / sum of what `scores` has.
struct RowSums {
  float log[2];
  float inverse[2];
};
__device__ __forceinline__ RowSums softmax(
    Block (&scores)[kBlocks],
    const Left& queries,
    const Places& places,
    int keys,
    int block,
    float factor) {
  float most[2] = {-INFINITY, -INFINITY};
#pragma unroll
  for (int j = 0; j < kBlocks; ++j) {
    if (j <= block) {
      multiply_rows(scores[j], queries, places, keys, j);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        float& score = scores[j][i / 4][i % 4];
        const int column = 8 * (i / 4) + 2 * (lane_id() % 4) + i % 2;
        const int row = lane_id() / 4 + 8 * ((i % 4) / 2);
        if (j == block && column > row) {
          score = -INFINITY;
        }
        most[(i % 4) / 2] = fmaxf(most[(i % 4) / 2], score);
      }
    }
  }
  RowSums sums;
  float total[2] = {0.0F, 0.0F};
#pragma unroll
  for (float& value : most) {
    value = largest_of_quad(value) * factor;
  }
#pragma unroll
  for (int j = 0; j < kBlocks; ++j) {
    if (j <= block) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        float& score = scores[j][i / 4][i % 4];
        score = power_of_2(score * factor - most[(i % 4) / 2]);
        total[(i % 4) / 2] += score;
      }
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    total[half] = sum_of_quad(total[half]);
    sums.log[half] = most[half] + log2f(total[half]);
    sums.inverse[half] = 1.0F / total[half];
  }
  return sums;
}

// Rounded pairs of a block of rows into a tile.
__device__ __forceinline__ void store_pairs(
    uint32_t tile, int block, const uint32_t (&pairs)[kHead / 4]) {
  const int lane = lane_id();
#pragma unroll
  for (int n = 0; n < kHead / 8; ++n) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = block * kSide + lane / 4 + 8 * half;
      ptx::store_shared_float(
          place(tile, row, n) + 4 * (lane % 4),
          __uint_as_float(pairs[2 * n + half]));
    }
  }
}

__device__ __forceinline__ void round_rows(
    uint32_t (&pairs)[kHead / 4], const Rows& rows, float first, float second) {
#pragma unroll
  for (int n = 0; n < kHead / 8; ++n) {
    pairs[2 * n] = ptx::round_pair(first * rows[n][0], first * rows[n][1]);
    pairs[2 * n + 1] =
        ptx::round_pair(second * rows[n][2], second * rows[n][3]);
  }
}

// The rows of one head, of which a thread of kWarps warps has a vector of every
// kRowsAtOnce-th.
template <int kWarps>
struct Head {
  static constexpr int kRowsAtOnce = 32 * kWarps / kLanes;
  static constexpr int kSteps = kTime / kRowsAtOnce;

  int64_t first;  // element
  int64_t stride;
  int column;  // of the thread's vector among all heads'
  int time;
  int part = static_cast<int>(threadIdx.x) % kLanes;
  int row = static_cast<int>(threadIdx.x) / kLanes;
  uint32_t in_first;  // tile

  __device__ Head(
      const ShortAttention& p, uint32_t tiles, int64_t sequence, int head)
      : stride(static_cast<int64_t>(p.heads) * kHead), time(p.time) {
    column = head * kHead + part * 8;
    first = (sequence * time + row) * stride + column;
    in_first = place(tiles, row, part);
    asm volatile("" : "+r"(in_first));  // as Places::forget()
  }

  __device__ __forceinline__ int row_of(int step) const {
    return row + step * kRowsAtOnce;
  }
  __device__ __forceinline__ bool exists(int step) const {
    return row_of(step) < time;
  }
  __device__ __forceinline__ int64_t at(int step) const {
    return first + step * kRowsAtOnce * stride;
  }
  __device__ __forceinline__ uint32_t in(int tile, int step) const {
    return in_first +
           static_cast<uint32_t>(tile + step * kRowsAtOnce * kRowBytes);
  }
  // Begins to copy them into a tile, zeros behind the last.
  __device__ __forceinline__ void copy(
      int tile, const __nv_bfloat16* from) const {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      ptx::copy_async(in(tile, step), from + at(step), exists(step));
    }
    ptx::copy_async_commit();
  }
  __device__ __forceinline__ uint4
  load(const __nv_bfloat16* from, int step) const {
    return exists(step) ? *reinterpret_cast<const uint4*>(from + at(step))
                        : uint4{0, 0, 0, 0};
  }
  __device__ __forceinline__ void store(
      __nv_bfloat16* to, int step, const uint4& v) const {
    if (exists(step)) {
      *reinterpret_cast<uint4*>(to + at(step)) = v;
    }
  }
};

__device__ __forceinline__ Vec8 floats_at(const float* from) {
  Vec8 v{};
  if (from != nullptr) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      v.of[i] = from[i];
    }
  }
  return v;
}

__device__ __forceinline__ const float* moved(const float* from, int by) {
  return from == nullptr ? nullptr : from + by;
}

// Adds its bias to what a layer gave, in a tile.
template <int kWarps>
__device__ __forceinline__ void add_bias(
    int tile, const Head<kWarps>& head, const float* bias) {
  if (bias == nullptr) {
    return;
  }
  const Vec8 shift = floats_at(bias + head.column);
#pragma unroll
  for (int step = 0; step < head.kSteps; ++step) {
    Vec8 x = Vec8::load(ptx::load_shared(head.in(tile, step)));
    x.add_scaled(1.0F, shift);
    ptx::store_shared(head.in(tile, step), x.rounded());
  }
}

// The same, and norms it, four rows at a time; keeps their means and 1 /
// sqrt(var + epsilon) where `moments` is given.
template <int kWarps>
__device__ __forceinline__ void norm(
    int tile,
    const Head<kWarps>& head,
    const float* bias,
    const float* gain,
    float epsilon,
    float2* moments = nullptr) {
  constexpr int kAtOnce = 4;
  static_assert(Head<kWarps>::kSteps % kAtOnce == 0);
  const Vec8 shift = floats_at(moved(bias, head.column));
  const Vec8 factor = floats_at(gain + head.part * 8);
#pragma unroll 1
  for (int first = 0; first < head.kSteps; first += kAtOnce) {
    Vec8 rows[kAtOnce];
    float2 of[kAtOnce];
    const auto load = [&](int i) {
      Vec8 x = Vec8::load(ptx::load_shared(head.in(tile, first + i)));
      x.add_scaled(1.0F, shift);
      return x;
    };
    bool is_lost = false;
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      rows[i] = load(i);
      of[i] = normalise_in_range<kLanes>(rows[i], epsilon);
      is_lost = is_lost || !(of[i].y > 0.0F);
    }
    if (__any_sync(0xFFFFFFFFU, is_lost)) {
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        rows[i] = load(i);
        of[i] = normalise<kLanes>(rows[i], epsilon);
      }
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        rows[i].of[n] *= factor.of[n];
      }
      ptx::store_shared(head.in(tile, first + i), rows[i].rounded());
      if (moments != nullptr && head.part == 0) {
        moments[head.row_of(first + i)] = of[i];
      }
    }
  }
}

__device__ __forceinline__ int blocks_of(int time) {
  return (time + kSide - 1) / kSide;
}

constexpr int kForwardWarps = 4;

// A warp has two blocks of queries, an early one and a late one, so that all
// have as much to do.
//
// @param logs (batch, heads, time), for backward
__global__ void __launch_bounds__(32 * kForwardWarps, 4) short_attention_kernel(
    const __grid_constant__ ShortAttention p,
    __nv_bfloat16* __restrict__ y,
    float* __restrict__ logs) {
  __shared__ __align__(128) unsigned char tiles[3 * kTileBytes];
  const uint32_t first = ptx::shared_address(tiles);
  Places places(first);
  const Head<kForwardWarps> head(
      p, first, blockIdx.x / p.heads, static_cast<int>(blockIdx.x % p.heads));
  head.copy(kKeys, p.k);
  head.copy(kQueries, p.q);
  head.copy(kValues, p.v);
  ptx::copy_async_wait<2>();
  norm(kKeys, head, p.k_bias, p.k_gain, p.epsilon);
  ptx::copy_async_wait<1>();
  norm(kQueries, head, p.q_bias, p.q_gain, p.epsilon);
  ptx::copy_async_wait<0>();
  add_bias(kValues, head, p.v_bias);
  __syncthreads();
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = lane_id();
#pragma unroll 1
  for (int turn = 0; turn < kBlocks / kForwardWarps; ++turn) {
    static_assert(kBlocks == 2 * kForwardWarps);
    const int block = turn == 0 ? warp : kBlocks - 1 - warp;
    if (block >= blocks_of(p.time)) {
      continue;
    }
    places.forget();
    Left rows;
    load_left(rows, places, kQueries, block);
    Block scores[kBlocks];
    const RowSums sums =
        softmax(scores, rows, places, kKeys, block, p.scale * kLog2E);
    Rows mixed{};
#pragma unroll
    for (int j = 0; j < kBlocks; ++j) {
      if (j <= block) {
        add_product(mixed, scores[j], places, kValues, j);
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = block * kSide + lane / 4 + 8 * half;
      if (lane % 4 == 0 && row < p.time) {
        logs[static_cast<int64_t>(blockIdx.x) * p.time + row] = sums.log[half];
      }
    }
    // By way of the queries' rows, which no other warp reads.
    uint32_t pairs[kHead / 4];
    round_rows(pairs, mixed, sums.inverse[0], sums.inverse[1]);
    store_pairs(first + kQueries, block, pairs);
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kSide / 4; ++i) {
      const int row = block * kSide + 4 * i + lane / kLanes;
      const uint4 v =
          ptx::load_shared(place(first + kQueries, row, lane % kLanes));
      if (row < p.time) {
        *reinterpret_cast<uint4*>(
            y + head.first + (row - head.row) * head.stride) = v;
      }
    }
  }
}

// What is summed over all rows, by column of a head.
enum Sum { kQBias, kKBias, kVBias, kQGain, kKGain, kSums };

// Sums of a warp's columns in shared memory.
using Sums = float[kSums][kHead];

// Adds what the lanes of a warp have of the same columns.
__device__ __forceinline__ void add_sum(
    float (&sum)[kHead], Vec8 values, int part) {
#pragma unroll
  for (float& value : values.of) {
    value += __shfl_xor_sync(0xFFFFFFFFU, value, kLanes);
    value += __shfl_xor_sync(0xFFFFFFFFU, value, 2 * kLanes);
  }
  if (lane_id() < kLanes) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      sum[part * 8 + i] += values.of[i];
    }
  }
}

// As many as blocks of rows: each has a block of queries and one of keys.
constexpr int kBackwardWarps = kBlocks;

// Backward's shared memory behind the tiles.
struct Aside {
  float logs[kTime];
  float dots[kTime];
  float2 q_moments[kTime];
  float2 k_moments[kTime];
  Sums sums[kBackwardWarps];
};

// From the gradient of what was normed that of what was given, which are in
// tiles.
__device__ __forceinline__ void finish_normed(
    int grad,
    int given,
    const Head<kBackwardWarps>& head,
    const float* bias,
    const float* gain,
    const float2 (&moments)[kTime],
    __nv_bfloat16* to,
    float (&bias_sum)[kHead],
    float (&gain_sum)[kHead]) {
  const Vec8 shift = floats_at(moved(bias, head.column));
  const Vec8 factor = floats_at(gain + head.part * 8);
  Vec8 dbias{};
  Vec8 dgain{};
#pragma unroll 2
  for (int step = 0; step < head.kSteps; ++step) {
    const bool exists = head.exists(step);
    const float2 moment = moments[head.row_of(step)];
    Vec8 n = Vec8::load(ptx::load_shared(head.in(given, step)));
    Vec8 g = Vec8::load(
        exists ? ptx::load_shared(head.in(grad, step)) : uint4{0, 0, 0, 0});
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      n.of[i] = (n.of[i] + shift.of[i] - moment.x) * moment.y;
      dgain.of[i] += g.of[i] * n.of[i];
      g.of[i] *= factor.of[i];
    }
    normalise_backward<kLanes>(g, n, moment.y);
    dbias.add_scaled(1.0F, g);
    head.store(to, step, g.rounded());
  }
  add_sum(bias_sum, dbias, head.part);
  add_sum(gain_sum, dgain, head.part);
}

// What is added to sums of a block of queries or keys, `rows` and `grads` of
// it, with another one: P, and what becomes dS, both with queries in rows or
// both with keys.
__device__ __forceinline__ void weigh(
    Block& weights,
    Block& d,
    const Left& rows,
    const Left& grads,
    const Places& places,
    int other_rows,
    int other_grads,
    int j,
    float factor) {
  multiply_rows(weights, rows, places, other_rows, j);
  multiply_rows(d, grads, places, other_grads, j);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    weights[i / 4][i % 4] *= factor;
  }
}

// A block has sequences blockIdx.y, blockIdx.y + gridDim.y, .. of one head.
//
// With P = softmax(scale Q K^T), of whose rows `logs` has the sums, and
// dP = dY V^T:
//   dV = P^T dY,   dS = P (dP - D),   D[t] = dY[t] . y[t]
//   dQ = scale dS K,   dK = scale dS^T Q
//
// @param biases (gridDim.y, 3, heads, 64), or null
// @param gains (gridDim.y, heads, 2, 64)
__global__ void __launch_bounds__(32 * kBackwardWarps, 2)
    short_attention_backward_kernel(
        const __grid_constant__ ShortAttention p,
        const __grid_constant__ ShortAttentionOutputs outputs,
        const __grid_constant__ ShortAttentionGradients gradients,
        float* __restrict__ biases,
        float* __restrict__ gains) {
  extern __shared__ __align__(128) unsigned char shared[];
  const uint32_t first = ptx::shared_address(shared);
  Places places(first);
  auto& aside = *reinterpret_cast<Aside*>(shared + 4 * kTileBytes);
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / 32;
  const int lane = lane_id();
  Sums& sums = aside.sums[warp];
  const float factor = p.scale * kLog2E;
  const int blocks = blocks_of(p.time);
  const int block = warp;
  for (int i = lane; i < kSums * kHead; i += 32) {
    sums[i / kHead][i % kHead] = 0.0F;
  }
  __syncwarp();
#pragma unroll 1
  for (int64_t sequence = blockIdx.y; sequence < p.batch;
       sequence += gridDim.y) {
    const Head<kBackwardWarps> head(
        p, first, sequence, static_cast<int>(blockIdx.x));
    head.copy(kKeys, p.k);
    head.copy(kQueries, p.q);
    head.copy(kValues, p.v);
    head.copy(kGrads, outputs.dy);
    uint4 y[head.kSteps];
#pragma unroll
    for (int step = 0; step < head.kSteps; ++step) {
      y[step] = head.load(outputs.y, step);
    }
    if (thread < kTime) {
      aside.logs[thread] =
          thread < p.time
              ? outputs
                    .logs[(sequence * p.heads + blockIdx.x) * p.time + thread]
              : 0.0F;
    }
    ptx::copy_async_wait<3>();
    norm(kKeys, head, p.k_bias, p.k_gain, p.epsilon, aside.k_moments);
    ptx::copy_async_wait<2>();
    norm(kQueries, head, p.q_bias, p.q_gain, p.epsilon, aside.q_moments);
    ptx::copy_async_wait<0>();
    add_bias(kValues, head, p.v_bias);
#pragma unroll
    for (int step = 0; step < head.kSteps; ++step) {
      const Vec8 of = Vec8::load(y[step]);
      const Vec8 dy = Vec8::load(ptx::load_shared(head.in(kGrads, step)));
      float dot = 0.0F;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        dot += of.of[i] * dy.of[i];
      }
      dot = sum_of_row<kLanes>(dot);
      if (head.part == 0) {
        aside.dots[head.row_of(step)] = dot;
      }
    }
    __syncthreads();
    uint32_t dkeys[kHead / 4];
    uint32_t dvalues[kHead / 4];
    uint32_t dqueries[kHead / 4];
    if (block < blocks) {
      {
        Left rows;
        Left grads;
        places.forget();
        load_left(rows, places, kKeys, block);
        load_left(grads, places, kValues, block);
        Rows key_sum{};
        Rows value_sum{};
#pragma unroll 1
        for (int j = block; j < blocks; ++j) {
          Block weights;  // (keys, queries)
          Block d;
          weigh(weights, d, rows, grads, places, kQueries, kGrads, j, factor);
#pragma unroll
          for (int n = 0; n < 2; ++n) {
            const int column = 8 * n + 2 * (lane % 4);
            const int at = j * kSide + column;
#pragma unroll
            for (int i = 0; i < 4; ++i) {
              float& weight = weights[n][i];
              weight = power_of_2(weight - aside.logs[at + i % 2]);
              if (j == block && lane / 4 + 8 * (i / 2) > column + i % 2) {
                weight = 0.0F;
              }
              d[n][i] = weight * (d[n][i] - aside.dots[at + i % 2]);
            }
          }
          add_product(value_sum, weights, places, kGrads, j);
          add_product(key_sum, d, places, kQueries, j);
        }
        round_rows(dkeys, key_sum, p.scale, p.scale);
        round_rows(dvalues, value_sum, 1.0F, 1.0F);
      }
      Left rows;
      Left grads;
      places.forget();
      load_left(rows, places, kQueries, block);
      load_left(grads, places, kGrads, block);
      float log[2];
      float dot[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = block * kSide + lane / 4 + 8 * half;
        log[half] = aside.logs[row];
        dot[half] = aside.dots[row];
      }
      Rows sum{};
#pragma unroll 1
      for (int j = 0; j <= block; ++j) {
        Block weights;  // (queries, keys)
        Block d;
        weigh(weights, d, rows, grads, places, kKeys, kValues, j, factor);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          const int half = (i % 4) / 2;
          float weight = power_of_2(weights[i / 4][i % 4] - log[half]);
          const int column = 8 * (i / 4) + 2 * (lane % 4) + i % 2;
          if (j == block && column > lane / 4 + 8 * half) {
            weight = 0.0F;
          }
          d[i / 4][i % 4] = weight * (d[i / 4][i % 4] - dot[half]);
        }
        add_product(sum, d, places, kKeys, j);
      }
      round_rows(dqueries, sum, p.scale, p.scale);
    }
    __syncthreads();
    // What was in the tiles is read no more.
    head.copy(kGrads, p.q);
    if (block < blocks) {
      store_pairs(first + kQueries, block, dqueries);
      store_pairs(first + kKeys, block, dkeys);
      store_pairs(first + kValues, block, dvalues);
    }
    __syncthreads();
    Vec8 dbias{};
#pragma unroll 2
    for (int step = 0; step < head.kSteps; ++step) {
      const uint4 v = ptx::load_shared(head.in(kValues, step));
      if (head.exists(step)) {
        dbias.add_scaled(1.0F, Vec8::load(v));
      }
      head.store(gradients.v, step, v);
    }
    add_sum(sums[kVBias], dbias, head.part);
    head.copy(kValues, p.k);
    ptx::copy_async_wait<1>();
    finish_normed(
        kQueries,
        kGrads,
        head,
        p.q_bias,
        p.q_gain,
        aside.q_moments,
        gradients.q,
        sums[kQBias],
        sums[kQGain]);
    ptx::copy_async_wait<0>();
    finish_normed(
        kKeys,
        kValues,
        head,
        p.k_bias,
        p.k_gain,
        aside.k_moments,
        gradients.k,
        sums[kKBias],
        sums[kKGain]);
    __syncthreads();
  }
  for (int i = thread; i < kSums * kHead; i += 32 * kBackwardWarps) {
    const int which = i / kHead;
    const int column = i % kHead;
    float total = 0.0F;
#pragma unroll
    for (const Sums& of : aside.sums) {
      total += of[which][column];
    }
    const int64_t group = blockIdx.y;
    const auto at = static_cast<int64_t>(blockIdx.x);
    if (which >= kQGain) {
      gains[((group * p.heads + at) * 2 + (which - kQGain)) * kHead + column] =
          total;
    } else if (biases != nullptr) {
      biases[((group * 3 + which) * p.heads + at) * kHead + column] = total;
    }
  }
}

constexpr int kBackwardBytes = 4 * kTileBytes + static_cast<int>(sizeof(Aside));

// Groups of sequences, each of which has a block for each head.
int groups_for(const ShortAttention& p, const DeviceLimits& limits) {
  const int blocks = 2 * limits.multiprocessors;
  return static_cast<int>(std::clamp<int64_t>(blocks / p.heads, 1, p.batch));
}

bool valid(const ShortAttention& p) {
  return p.batch > 0 && p.heads > 0 && p.scale > 0 &&
         short_attention_supports(p.time, kHead);
}

}  // namespace

bool short_attention_supports(int64_t time, int64_t head_width) {
  return head_width == kHead && time > 0 && time <= kTime;
}

cudaError_t short_attention(
    const ShortAttention& p,
    __nv_bfloat16* y,
    float* logs,
    cudaStream_t stream) {
  if (!valid(p)) {
    return cudaErrorInvalidValue;
  }
  short_attention_kernel<<<
      static_cast<unsigned>(p.batch * p.heads),
      32 * kForwardWarps,
      0,
      stream>>>(p, y, logs);
  return cudaGetLastError();
}

size_t short_attention_backward_bytes(
    const ShortAttention& p, const DeviceLimits& limits) {
  return sizeof(float) * static_cast<size_t>(groups_for(p, limits)) *
         static_cast<size_t>(p.heads) * kSums * kHead;
}

cudaError_t short_attention_backward(
    const ShortAttention& p,
    const ShortAttentionOutputs& outputs,
    void* workspace,
    const ShortAttentionGradients& gradients,
    const DeviceLimits& limits,
    cudaStream_t stream) {
  if (!valid(p)) {
    return cudaErrorInvalidValue;
  }
  const int groups = groups_for(p, limits);
  auto* gains = static_cast<float*>(workspace);
  float* biases =
      gradients.biases == nullptr
          ? nullptr
          : gains + static_cast<int64_t>(groups) * p.heads * 2 * kHead;
  if (const cudaError_t error = cudaFuncSetAttribute(
          short_attention_backward_kernel,
          cudaFuncAttributeMaxDynamicSharedMemorySize,
          kBackwardBytes);
      error != cudaSuccess) {
    return error;
  }
  const dim3 grid(
      static_cast<unsigned>(p.heads), static_cast<unsigned>(groups));
  short_attention_backward_kernel<<<
      grid,
      32 * kBackwardWarps,
      kBackwardBytes,
      stream>>>(p, outputs, gradients, biases, gains);
  if (const cudaError_t error = column_sums(
          gains, groups * p.heads, 2 * kHead, gradients.gains, stream);
      error != cudaSuccess || biases == nullptr) {
    return error;
  }
  return column_sums(
      biases, groups, 3 * p.heads * kHead, gradients.biases, stream);
}

}  // namespace einforge::kernels::cuda
