#include <algorithm>

#include "einforge/kernels/cuda/btt_linear.h"
#include "einforge/kernels/cuda/btt_linear_layout.h"
#include "einforge/kernels/cuda/contiguous_span.h"
#include "einforge/kernels/cuda/launch.h"
#include "einforge/kernels/cuda/ptx.cuh"

namespace einforge::kernels::cuda {

namespace {

constexpr int kPackThreads = 512;     // at most; of one core
constexpr int kMixtureThreads = 256;  // of a mixture's
constexpr int kMostStaged = 40 * 1024;

// One stage's weights as W[batch][row][depth], row = (row_major, row_middle,
// row_minor) and depth = (depth_major, depth_minor). Past `has_batches`,
// `has_rows` and, of each depth_minor, `has_depth` there are zeros.
struct PackStage {
  const __nv_bfloat16* core;
  const float* scale;
  int64_t batch_stride;
  int64_t row_major_stride;
  int64_t row_middle_stride;
  int64_t row_minor_stride;
  int64_t depth_major_stride;
  int64_t depth_minor_stride;
  int row_middle;
  int row_minor;
  int depth_minor;
  int rows;
  int depth;
  int batches;
  int has_rows;
  int has_depth;
  int has_batches;
  bool permute_depth;  // alpha_of_depth within each step of 16
  bool staged;         // a batch is a contiguous span of memory and fits
  int64_t expert_stride;

  [[nodiscard]] __host__ __device__ int weights() const {  // of a batch
    return rows * depth;
  }
  // Those of them that are not padding.
  [[nodiscard]] __host__ __device__ int own_weights() const {
    return has_rows * (depth / depth_minor) * has_depth;
  }
};

// Order of the fragments: [batch / 8][row tile][depth step][batch % 8][lane].
struct PackParams {
  PackStage stages[2];
  uint4* packed;
  int64_t vectors;  // of an expert
};

// A sum with it is negative.
constexpr int64_t kNowhere = INT64_MIN / 4;

// Where the rows, of which `has_rows` are there, and the depths of a batch are,
// the latter in the order of the fragments.
__device__ __forceinline__ void find_places(
    const PackStage& stage, int has_rows, int64_t* row_at, int64_t* depth_at) {
  for (int i = static_cast<int>(threadIdx.x); i < stage.rows + stage.depth;
       i += static_cast<int>(blockDim.x)) {
    if (i < stage.rows) {
      row_at[i] = i >= has_rows
                      ? kNowhere
                      : i / stage.row_minor / stage.row_middle *
                                stage.row_major_stride +
                            i / stage.row_minor % stage.row_middle *
                                stage.row_middle_stride +
                            i % stage.row_minor * stage.row_minor_stride;
    } else {
      const int k = i - stage.rows;
      const int depth = stage.permute_depth
                            ? k / kFragmentDepth * kFragmentDepth +
                                  alpha_of_depth(k % kFragmentDepth)
                            : k;
      const int minor = depth % stage.depth_minor;
      depth_at[k] = minor >= stage.has_depth
                        ? kNowhere
                        : depth / stage.depth_minor * stage.depth_major_stride +
                              minor * stage.depth_minor_stride;
    }
  }
}

// A batch in shared memory: a vector is left out after each 8, so that
// rows and depths of a warp are bank-conflict-free.
__host__ __device__ constexpr unsigned staged_vector(unsigned vector) {
  return vector + vector / 8;
}
__device__ constexpr unsigned staged_weight(unsigned weight) {
  return weight + weight / (8 * kVector) * kVector;
}

// The fragments of a batch, which the warps of the block take in turn.
template <bool kStaged>
__device__ __forceinline__ void write_fragments(
    const PackStage& stage,
    float scale,
    const __nv_bfloat16* weights,
    const int64_t* row_at,
    const int64_t* depth_at,
    uint4* packed) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const unsigned steps = static_cast<unsigned>(stage.depth) / kFragmentDepth;
  const unsigned fragments =
      static_cast<unsigned>(stage.rows) / kFragmentRows * steps;
  for (unsigned fragment = threadIdx.x / 32; fragment < fragments;
       fragment += blockDim.x / 32) {
    const unsigned first_row = fragment / steps * kFragmentRows;
    const unsigned first_depth = fragment % steps * kFragmentDepth;
    alignas(16) __nv_bfloat16 values[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const FragmentIndex f = fragment_index(lane, i);
      const int64_t at =
          row_at[first_row + f.row] + depth_at[first_depth + f.k];
      values[i] = __nv_bfloat16{};
      if (at >= 0) {
        values[i] = kStaged ? weights[staged_weight(static_cast<unsigned>(at))]
                            : weights[at];
      }
    }
    if (stage.scale != nullptr) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        values[i] = __float2bfloat16_rn(__bfloat162float(values[i]) * scale);
      }
    }
    packed[fragment * kBlockVectors + lane] =
        *reinterpret_cast<const uint4*>(values);
  }
}

// A block has one batch of one expert.
__global__ void __launch_bounds__(kPackThreads)
    btt_linear_pack(const __grid_constant__ PackParams params) {
  extern __shared__ uint4 memory[];  // the batch, then the places
  ptx::launch_dependents();
  int batch = static_cast<int>(blockIdx.x);
  const bool second = batch >= params.stages[0].batches;
  const PackStage& stage = params.stages[second ? 1 : 0];
  const auto expert = static_cast<int64_t>(blockIdx.y);
  uint4* packed = params.packed + expert * params.vectors;
  if (second) {
    batch -= params.stages[0].batches;
    packed += static_cast<int64_t>(params.stages[0].batches) *
              (params.stages[0].weights() / kVector);
  }
  packed += (static_cast<int64_t>(batch / 8 * 8) * stage.weights() +
             batch % 8 * 32 * kVector) /
            kVector;
  const __nv_bfloat16* weights =
      stage.core + expert * stage.expert_stride + batch * stage.batch_stride;
  const float scale = stage.scale == nullptr ? 1.0F : *stage.scale;
  const bool present = batch < stage.has_batches;
  const unsigned vectors =
      stage.staged && present
          ? static_cast<unsigned>(stage.own_weights()) / kVector
          : 0;
  for (unsigned i = threadIdx.x; i < vectors; i += blockDim.x) {
    ptx::copy_async(
        ptx::shared_address(memory + staged_vector(i)),
        weights + i * kVector,
        /*valid=*/true);
  }
  ptx::copy_async_commit();
  auto* row_at = reinterpret_cast<int64_t*>(memory + staged_vector(vectors));
  int64_t* depth_at = row_at + stage.rows;
  find_places(stage, present ? stage.has_rows : 0, row_at, depth_at);
  ptx::copy_async_wait<0>();
  __syncthreads();
  if (stage.staged) {
    weights = reinterpret_cast<const __nv_bfloat16*>(memory);
    write_fragments<true>(stage, scale, weights, row_at, depth_at, packed);
  } else {
    write_fragments<false>(stage, scale, weights, row_at, depth_at, packed);
  }
}

// `indices` are those of a batch.
bool can_be_staged(
    const PackStage& stage, int experts, const std::array<Extent, 3>& indices) {
  return is_contiguous_span(indices) && stage.own_weights() % kVector == 0 &&
         stage.own_weights() * 2 <= kMostStaged &&
         are_aligned(
             stage.core,
             {{{stage.has_batches, stage.batch_stride},
               {experts, stage.expert_stride}}});
}

// Of the places of a batch's rows and depths.
size_t places_bytes(int rows, int depth) {
  return sizeof(int64_t) * static_cast<size_t>(rows + depth);
}

int shared_bytes(const PackStage& stage) {
  const unsigned vectors =
      stage.staged ? static_cast<unsigned>(stage.own_weights()) / kVector : 0;
  return static_cast<int>(
      16 * staged_vector(vectors) + places_bytes(stage.rows, stage.depth));
}

}  // namespace

BttCores BttCores::transposed() const {
  // The gradient's stage one contracts epsilon of B for each phi, its stage
  // two contracts (phi, rho) of A for each gamma: A and B change places, and
  // so do gamma and phi.
  BttCores t;
  t.a = b;
  t.a_strides = {b_strides.in, b_strides.phi, b_strides.gamma, b_strides.rho};
  t.a_scale = b_scale;
  t.b = a;
  t.b_strides = {a_strides.in, a_strides.phi, a_strides.gamma, a_strides.rho};
  t.b_scale = a_scale;
  t.experts = experts;
  t.a_expert = b_expert;
  t.b_expert = a_expert;
  return t;
}

size_t btt_packed_bytes(const BttSizes& s) {
  return sizeof(__nv_bfloat16) * s.rho *
         (static_cast<size_t>(s.d_in()) * s.phi +
          static_cast<size_t>(s.d_out()) * s.gamma);
}

size_t btt_pack_shared_bytes(const BttSizes& s) {
  return std::max(
      places_bytes(s.phi * s.rho, s.alpha),
      places_bytes(s.epsilon, s.gamma * s.rho));
}

cudaError_t btt_pack(
    const BttSizes& s,
    const BttCores& cores,
    void* packed,
    cudaStream_t stream,
    const BttPlan& plan) {
  // Rows of stage one are (phi, rho), of the register-resident kernels (phi /
  // 8, rho, phi % 8).
  const bool resident = plan.kernel == BttKernel::kResident;
  const BttSizes k = btt_packed_sizes(s, plan);
  const BttCores::Strides& a = cores.a_strides;
  const BttCores::Strides& b = cores.b_strides;
  PackStage one{
      .core = cores.a,
      .scale = cores.a_scale,
      .batch_stride = a.gamma,
      .row_major_stride = a.phi * (resident ? kVector : 1),
      .row_middle_stride = resident ? a.rho : 0,
      .row_minor_stride = resident ? a.phi : a.rho,
      .depth_major_stride = 0,
      .depth_minor_stride = a.in,
      .row_middle = resident ? s.rho : 1,
      .row_minor = resident ? kVector : s.rho,
      .depth_minor = k.alpha,
      .rows = k.phi * k.rho,
      .depth = k.alpha,
      .batches = k.gamma,
      .has_rows = s.phi * s.rho,
      .has_depth = s.alpha,
      .has_batches = s.gamma,
      .permute_depth = true,
      .staged = false,
      .expert_stride = cores.a_expert};
  one.staged = can_be_staged(
      one, cores.experts, {{{s.alpha, a.in}, {s.phi, a.phi}, {s.rho, a.rho}}});
  PackStage two{
      .core = cores.b,
      .scale = cores.b_scale,
      .batch_stride = b.phi,
      .row_major_stride = 0,
      .row_middle_stride = 0,
      .row_minor_stride = b.in,
      .depth_major_stride = b.rho,
      .depth_minor_stride = b.gamma,
      .row_middle = 1,
      .row_minor = k.epsilon,
      .depth_minor = k.gamma,
      .rows = k.epsilon,
      .depth = k.gamma * k.rho,
      .batches = k.phi,
      .has_rows = s.epsilon,
      .has_depth = s.gamma,
      .has_batches = s.phi,
      .permute_depth = false,
      .staged = false,
      .expert_stride = cores.b_expert};
  two.staged = can_be_staged(
      two,
      cores.experts,
      {{{s.epsilon, b.in}, {s.gamma, b.gamma}, {s.rho, b.rho}}});
  const int most = std::max(one.weights(), two.weights()) / kVector;
  Launch launch(
      std::min(
          (most + 31) / 32 * 32,
          cores.experts > 1 ? kMixtureThreads : kPackThreads),
      std::max(shared_bytes(one), shared_bytes(two)),
      stream);
  return launch.run(
      btt_linear_pack,
      {static_cast<unsigned>(one.batches + two.batches),
       static_cast<unsigned>(cores.experts)},
      {{one, two},
       static_cast<uint4*>(packed),
       static_cast<int64_t>(btt_packed_bytes(k) / sizeof(uint4))});
}

}  // namespace einforge::kernels::cuda
