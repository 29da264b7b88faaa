#include "einforge/kernels/cuda/fused_ffn.h"

#include <algorithm>

#include "einforge/kernels/cuda/btt_linear_layout.h"
#include "einforge/kernels/cuda/ceil_div.h"

namespace einforge::kernels::cuda::fused_ffn {
namespace {

constexpr int kPackThreads = 256;

// One core as the pack kernels read it: of each p a matrix, (hidden, width)
// with width gamma or phi; or of each gamma or phi one (p, alpha or epsilon).
struct Matrices {
  const uint16_t* data;
  int64_t batch_stride;
  int64_t depth_stride;
  int64_t row_stride;
  int depths;
  int rows;
};

using Values = uint16_t[8];

__device__ uint4 vector_of(const Values& values) {
  const auto word = [&](int i) {
    return values[2 * i] | static_cast<uint32_t>(values[2 * i + 1]) << 16;
  };
  return {word(0), word(1), word(2), word(3)};
}

__device__ uint16_t element(const Matrices& m, int batch, int depth, int row) {
  return depth < m.depths && row < m.rows
             ? m.data
                   [batch * m.batch_stride + depth * m.depth_stride +
                    row * m.row_stride]
             : uint16_t{0};
}

// A fragment of the first or the last stage: rows are m. A unit has `each`
// neighbours of the batch, of which there are `groups` such groups.
__device__ uint4 outer_fragment(
    const Matrices& m,
    int fragment,
    int each,
    int groups,
    int steps,
    int lane) {
  const int unit = fragment / each / steps;
  Values values;
  for (int i = 0; i < 8; ++i) {
    const FragmentIndex index = fragment_index(lane, i);
    values[i] = element(
        m,
        unit % groups * each + fragment % each,
        fragment / each % steps * 16 + index.k,
        unit / groups * 16 + index.row);
  }
  return vector_of(values);
}

// Half of a value, but where it is so small that it has no exponent left.
__device__ uint16_t halved(uint16_t value) {
  return (value & 0x7F80U) == 0 ? value : static_cast<uint16_t>(value - 0x80U);
}

// Of a matrix (depth = width, rows = hidden): eight columns of hidden, whole
// depth.
__device__ uint4
column_fragment(const Matrices& m, int p, int tile, int lane, bool half) {
  Values values;
  for (int i = 0; i < 8; ++i) {
    const uint16_t value =
        element(m, p, i / 2 * 8 + lane % 4 * 2 + i % 2, 8 * tile + lane / 4);
    values[i] = half ? halved(value) : value;
  }
  return vector_of(values);
}

// Of the same matrix with hidden as the depth: of steps of 16 two halves, each
// with half of the columns; a lane's sums are eight neighbours of the width.
__device__ uint4 row_fragment(const Matrices& m, int p, int half, int lane) {
  const int q = lane % 4;
  const int n = lane / 4;
  Values values;
  for (int i = 0; i < 8; ++i) {
    const int hidden = half / 2 * 16 + 8 * (i / 2 % 2) + 2 * q + i % 2;
    const int width = 8 * (n / 2) + 2 * (half % 2 * 2 + i / 4) + n % 2;
    values[i] = element(m, p, width, hidden);
  }
  return vector_of(values);
}

// Of half of bias1 (hidden, middle), vectors for each p.
__device__ uint4
bias_fragment(const uint16_t* bias, int at, int words, int hidden, int middle) {
  const int in_row = at % words;
  Values values;
  for (int i = 0; i < 8; ++i) {
    const int n = 8 * (in_row % (words / 4) * 4 + i / 2) +
                  2 * (in_row / (words / 4)) + i % 2;
    values[i] = bias != nullptr && n < hidden
                    ? halved(bias[n * middle + at / words])
                    : uint16_t{0};
  }
  return vector_of(values);
}

struct ForwardPack {
  FfnShape shape;
  Matrices a1;
  Matrices b1;
  Matrices a2;
  Matrices b2;
  const uint16_t* bias1;
  uint4* packed;
};

// A thread has one vector.
__global__ void __launch_bounds__(kPackThreads)
    pack_forward(const __grid_constant__ ForwardPack p) {
  const FfnShape& s = p.shape;
  const int at = static_cast<int>(blockIdx.x) * kPackThreads +
                 static_cast<int>(threadIdx.x);
  const int lane = at % 32;
  if (at >= s.packed_vectors()) {
    return;
  }
  if (at < s.middle_first()) {
    p.packed[at] =
        outer_fragment(p.a1, at / 32, 8, s.in_vectors(), s.in_steps(), lane);
  } else if (at < s.out_first()) {
    const int fragment = (at - s.middle_first()) / 32;
    const int row = fragment / s.middle_fragments();
    const int i = fragment % s.middle_fragments();
    const int tiles = s.hidden / 8;
    p.packed[at] = i < tiles ? column_fragment(p.b1, row, i, lane, true)
                             : row_fragment(p.a2, row, i - tiles, lane);
  } else if (at < s.bias_first()) {
    p.packed[at] = outer_fragment(
        p.b2,
        (at - s.out_first()) / 32,
        4,
        2 * s.out_vectors(),
        s.out_steps(),
        lane);
  } else {
    p.packed[at] = bias_fragment(
        p.bias1, at - s.bias_first(), s.bias_words(), s.hidden, s.middle);
  }
}

struct MiddlePack {
  MiddleShape shape;
  Matrices b1;
  Matrices a2;
  const uint16_t* bias1;
  uint4* packed;
};

__global__ void __launch_bounds__(kPackThreads)
    pack_middle(const __grid_constant__ MiddlePack p) {
  const MiddleShape& s = p.shape;
  const int at = static_cast<int>(blockIdx.x) * kPackThreads +
                 static_cast<int>(threadIdx.x);
  const int lane = at % 32;
  if (at >= s.packed_vectors()) {
    return;
  }
  if (at < s.bias_first()) {
    const int row = at / 32 / s.core_fragments();
    const int tiles = s.hidden / 8;
    const int i = at / 32 % s.core_fragments();
    const int tile = i % tiles;
    p.packed[at] = i < tiles ? column_fragment(p.b1, row, tile, lane, true)
                   : i < 2 * tiles
                       ? column_fragment(p.a2, row, tile, lane, false)
                   : i < 3 * tiles ? row_fragment(p.a2, row, tile, lane)
                                   : row_fragment(p.b1, row, tile, lane);
  } else {
    p.packed[at] = bias_fragment(
        p.bias1, at - s.bias_first(), s.bias_words(), s.hidden, s.middle);
  }
}

// Of B1, or A2 with gamma and phi of its strides exchanged.
Matrices middle_core(
    const __nv_bfloat16* data,
    const BttCores::Strides& strides,
    int width,
    int hidden) {
  return {
      reinterpret_cast<const uint16_t*>(data),
      strides.phi,
      strides.gamma,
      strides.in,
      width,
      hidden};
}

// The gradient of bias1, (hidden, middle), from sums (splits, middle, hidden).
__global__ void __launch_bounds__(kPackThreads) sum_bias(
    const float* sums,
    __nv_bfloat16* grad,
    int splits,
    int middle,
    int hidden) {
  const int at = static_cast<int>(blockIdx.x) * kPackThreads +
                 static_cast<int>(threadIdx.x);
  if (at < middle * hidden) {
    float sum = 0;
    for (int i = 0; i < splits; ++i) {
      sum += sums[static_cast<int64_t>(i) * middle * hidden + at];
    }
    grad[at % hidden * middle + at / hidden] = __float2bfloat16(sum);
  }
}

template <typename Params>
cudaError_t launch_kernel(
    const two_pass::LoadedKernel& kernel,
    int64_t blocks,
    int warps,
    int shared_bytes,
    const Params& params,
    cudaStream_t stream) {
  const void* function = reinterpret_cast<const void*>(kernel.kernel);
  const cudaError_t status = cudaFuncSetAttribute(
      function, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
  if (status != cudaSuccess) {
    return status;
  }
  Params copy = params;
  void* arguments[] = {&copy};
  return cudaLaunchKernel(
      function,
      dim3(static_cast<unsigned>(blocks)),
      dim3(static_cast<unsigned>(32 * warps)),
      arguments,
      static_cast<size_t>(shared_bytes),
      stream);
}

unsigned blocks_of(int vectors) {
  return ceil_div(vectors, kPackThreads);
}

const uint16_t* bits(const __nv_bfloat16* data) {
  return reinterpret_cast<const uint16_t*>(data);
}

}  // namespace

size_t packed_bytes(const FfnShape& shape) {
  return 16 * static_cast<size_t>(shape.packed_vectors());
}

size_t packed_bytes(const MiddleShape& shape) {
  return 16 * static_cast<size_t>(shape.packed_vectors());
}

cudaError_t pack(
    const FfnShape& s,
    const BttCores& first,
    const BttCores& second,
    const __nv_bfloat16* bias1,
    void* packed,
    cudaStream_t stream) {
  const ForwardPack params{
      s,
      {bits(first.a),
       first.a_strides.gamma,
       first.a_strides.in,
       first.a_strides.phi,
       s.alpha,
       s.middle},
      middle_core(first.b, first.b_strides, s.gamma, s.hidden),
      middle_core(second.a, second.a_strides.exchanged(), s.phi, s.hidden),
      {bits(second.b),
       second.b_strides.phi,
       second.b_strides.gamma,
       second.b_strides.in,
       s.middle,
       s.epsilon},
      bits(bias1),
      static_cast<uint4*>(packed)};
  pack_forward<<<blocks_of(s.packed_vectors()), kPackThreads, 0, stream>>>(
      params);
  return cudaGetLastError();
}

cudaError_t pack(
    const MiddleShape& s,
    const BttCores& first,
    const BttCores& second,
    const __nv_bfloat16* bias1,
    void* packed,
    cudaStream_t stream) {
  const MiddlePack params{
      s,
      middle_core(first.b, first.b_strides, s.gamma, s.hidden),
      middle_core(second.a, second.a_strides.exchanged(), s.phi, s.hidden),
      bits(bias1),
      static_cast<uint4*>(packed)};
  pack_middle<<<blocks_of(s.packed_vectors()), kPackThreads, 0, stream>>>(
      params);
  return cudaGetLastError();
}

cudaError_t launch(
    const two_pass::LoadedKernel& kernel,
    const FfnShape& shape,
    const FfnParams& params,
    const DeviceLimits& limits,
    cudaStream_t stream) {
  // A block has at least 16 tokens.
  return launch_kernel(
      kernel,
      std::min<int64_t>(ceil_div(params.tokens, 16), limits.multiprocessors),
      kForwardWarps,
      shape.shared_bytes(),
      params,
      stream);
}

int splits_of(
    const MiddleShape& shape, int64_t tokens, const DeviceLimits& limits) {
  const int64_t tiles = (tokens + shape.tokens - 1) / shape.tokens;
  return static_cast<int>(std::clamp<int64_t>(
      limits.multiprocessors / shape.row_blocks(),
      1,
      std::max<int64_t>(1, tiles)));
}

cudaError_t launch(
    const two_pass::LoadedKernel& kernel,
    const MiddleShape& shape,
    const MiddleParams& params,
    cudaStream_t stream) {
  return launch_kernel(
      kernel,
      int64_t{params.splits} * shape.row_blocks(),
      kMiddleWarps,
      shape.shared_bytes(),
      params,
      stream);
}

cudaError_t sum_bias_gradient(
    const MiddleShape& shape,
    const float* sums,
    int splits,
    __nv_bfloat16* grad,
    cudaStream_t stream) {
  sum_bias<<<blocks_of(shape.middle * shape.hidden), kPackThreads, 0, stream>>>(
      sums, grad, splits, shape.middle, shape.hidden);
  return cudaGetLastError();
}

}  // namespace einforge::kernels::cuda::fused_ffn
