#include "einforge/kernels/cuda/btt_linear.h"
#include "einforge/kernels/cuda/btt_linear_layout.h"
#include "einforge/kernels/cuda/ptx.cuh"

namespace einforge::kernels::cuda {

namespace {

// One stage's weights as W[batch][row][depth], row = (row_major, row_middle,
// row_minor) and depth = (depth_major, depth_minor).
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
  int row_tiles;
  int depth_steps;
  int permute_depth;  // 1: alpha_of_depth within each step of 16
  int64_t vectors;    // of the whole stage
  int64_t expert_stride;
};

// Order of the fragments: [batch / 8][row tile][depth step][batch % 8][lane].
struct PackParams {
  PackStage stages[2];
  uint4* packed;
};

__global__ void __launch_bounds__(256)
    btt_linear_pack(const __grid_constant__ PackParams params) {
  ptx::allow_next_kernel();
  int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t expert = blockIdx.y;
  uint4* destination =
      params.packed +
      expert * (params.stages[0].vectors + params.stages[1].vectors) + index;
  const bool second = index >= params.stages[0].vectors;
  const PackStage& stage = params.stages[second ? 1 : 0];
  if (second) {
    index -= params.stages[0].vectors;
  }
  if (index >= stage.vectors) {
    return;
  }
  const int lane = static_cast<int>(index % 32);
  const int in_group = static_cast<int>(index / 32 % 8);
  int64_t block = index / kBlockVectors;
  const int step = static_cast<int>(block % stage.depth_steps);
  block /= stage.depth_steps;
  const int tile = static_cast<int>(block % stage.row_tiles);
  const int64_t batch = block / stage.row_tiles * 8 + in_group;
  const float scale = stage.scale == nullptr ? 1.0F : *stage.scale;
  alignas(16) __nv_bfloat16 values[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const FragmentIndex f = fragment_index(lane, i);
    const int row = tile * kFragmentRows + f.row;
    const int depth = step * kFragmentDepth +
                      (stage.permute_depth != 0 ? alpha_of_depth(f.k) : f.k);
    const int64_t offset =
        batch * stage.batch_stride +
        row / stage.row_minor / stage.row_middle * stage.row_major_stride +
        row / stage.row_minor % stage.row_middle * stage.row_middle_stride +
        row % stage.row_minor * stage.row_minor_stride +
        depth / stage.depth_minor * stage.depth_major_stride +
        depth % stage.depth_minor * stage.depth_minor_stride;
    const __nv_bfloat16 value =
        stage.core[expert * stage.expert_stride + offset];
    values[i] = stage.scale == nullptr
                    ? value
                    : __float2bfloat16_rn(__bfloat162float(value) * scale);
  }
  *destination = *reinterpret_cast<const uint4*>(values);
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

cudaError_t btt_pack(
    const BttSizes& s,
    const BttCores& cores,
    void* packed,
    cudaStream_t stream,
    const BttPlan& plan) {
  // Rows of stage one are (phi, rho), of the pinned kernels (phi / 8, rho,
  // phi % 8).
  const bool pinned = plan.kernel == BttKernel::kPinned;
  const PackStage one{
      .core = cores.a,
      .scale = cores.a_scale,
      .batch_stride = cores.a_strides.gamma,
      .row_major_stride = cores.a_strides.phi * (pinned ? kVector : 1),
      .row_middle_stride = pinned ? cores.a_strides.rho : 0,
      .row_minor_stride = pinned ? cores.a_strides.phi : cores.a_strides.rho,
      .depth_major_stride = 0,
      .depth_minor_stride = cores.a_strides.in,
      .row_middle = pinned ? s.rho : 1,
      .row_minor = pinned ? kVector : s.rho,
      .depth_minor = s.alpha,
      .row_tiles = s.phi * s.rho / kFragmentRows,
      .depth_steps = s.alpha / kFragmentDepth,
      .permute_depth = 1,
      .vectors = static_cast<int64_t>(s.d_in()) * s.phi * s.rho / kVector,
      .expert_stride = cores.a_expert};
  const PackStage two{
      .core = cores.b,
      .scale = cores.b_scale,
      .batch_stride = cores.b_strides.phi,
      .row_major_stride = 0,
      .row_middle_stride = 0,
      .row_minor_stride = cores.b_strides.in,
      .depth_major_stride = cores.b_strides.rho,
      .depth_minor_stride = cores.b_strides.gamma,
      .row_middle = 1,
      .row_minor = s.epsilon,
      .depth_minor = s.gamma,
      .row_tiles = s.epsilon / kFragmentRows,
      .depth_steps = s.gamma * s.rho / kFragmentDepth,
      .permute_depth = 0,
      .vectors = static_cast<int64_t>(s.d_out()) * s.gamma * s.rho / kVector,
      .expert_stride = cores.b_expert};
  const int64_t vectors = one.vectors + two.vectors;
  const dim3 blocks(
      static_cast<unsigned>((vectors + 255) / 256),
      static_cast<unsigned>(cores.experts));
  btt_linear_pack<<<blocks, 256, 0, stream>>>(
      {{one, two}, static_cast<uint4*>(packed)});
  return cudaGetLastError();
}

}  // namespace einforge::kernels::cuda
