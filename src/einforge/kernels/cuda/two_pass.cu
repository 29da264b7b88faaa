#include "einforge/kernels/cuda/two_pass.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <utility>

#include "einforge/kernels/cuda/btt_linear_layout.h"
#include "einforge/kernels/cuda/ceil_div.h"
#include "einforge/kernels/cuda/ptx.cuh"
#include "einforge/kernels/cuda/tensor_map.h"

namespace einforge::kernels::cuda::two_pass {

namespace {

constexpr int kPackWarps = 8;
constexpr int kPackThreads = 32 * kPackWarps;
constexpr int kPackElements = 16 * 1024;  // of a core in shared memory at once

// Elements from one depth of so many columns to the next in shared memory: 16
// bytes more than a multiple of 32, so that reads of eight columns and four
// depths are bank-conflict-free.
__host__ __device__ constexpr int pack_pitch(int columns) {
  return columns + 8;
}

struct PackParams {
  const __nv_bfloat16* core;
  uint4* packed;
  int64_t expert_stride;
  int64_t batch_stride;
  int64_t depth_stride;
  int64_t rho_stride;
  int64_t column_stride;
  int column_phi;  // columns of one r, as the shape has them
  int phi;         // of them, those of the core
  int batch;       // of the core
  int depth;
  int columns;      // of all r
  int rho;          // of the columns or of the depth
  int depth_tiles;  // of the shape
  int depth_tiles_of_rho;
  int column_tiles;
  int all_vectors;
  int steps;  // depth tiles in shared memory at once
  bool slabs;
};

struct PackAll {
  PackParams of[2];
};

// A block has one batch of one expert of one core.
__global__ void __launch_bounds__(kPackThreads)
    pack_stages(const __grid_constant__ PackAll all) {
  extern __shared__ uint16_t staged[];  // (depths, columns), padded
  const PackParams& p = all.of[blockIdx.z];
  const int batch = static_cast<int>(blockIdx.x);
  const int expert = static_cast<int>(blockIdx.y);
  if (batch >= 8 * p.all_vectors) {
    return;
  }
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int columns = 16 * p.column_tiles;
  const int pitch = pack_pitch(columns);
  const bool exists = batch < p.batch;
  const auto* core = reinterpret_cast<const uint16_t*>(p.core) +
                     expert * p.expert_stride + batch * p.batch_stride;
  uint4* packed =
      p.packed + ((static_cast<int64_t>(expert) * p.all_vectors + batch / 8) *
                      p.depth_tiles * p.column_tiles * 8 +
                  batch % 8) *
                     32;
  // Where a lane's elements of a tile are.
  int places[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const FragmentIndex index = fragment_index(lane, i);
    const int k = p.slabs ? index.k : alpha_of_depth(index.k);
    places[i] = k * pitch + index.row;
  }
  // Lanes run along the index that is contiguous in the core.
  const bool depth_first = p.depth_stride < p.column_stride;
  for (int first = 0; first < p.depth_tiles; first += p.steps) {
    const int steps = min(p.steps, p.depth_tiles - first);
    const int depths = 16 * steps;
    const int lines = depth_first ? columns : depths;
    const int length = depth_first ? depths : columns;
    const auto element = [&](int line, int at) -> uint16_t {
      const int k = depth_first ? at : line;
      const int column = depth_first ? line : at;
      const int step = first + k / 16;
      const int r = p.rho == 1 ? 0 : step / p.depth_tiles_of_rho;
      const int depth = (step - r * p.depth_tiles_of_rho) * 16 + k % 16;
      const int column_r = p.rho == 1 ? 0 : column / p.column_phi;
      const int phi = column - column_r * p.column_phi;
      return exists && line < lines && at < length && depth < p.depth &&
                     column < p.columns && phi < p.phi
                 ? __ldg(
                       core + depth * p.depth_stride + phi * p.column_stride +
                       (r + column_r) * p.rho_stride)
                 : uint16_t{0};
    };
    __syncthreads();
    // Some loads are on their way at once.
    constexpr int kAtOnce = 4;
    for (int base = warp; base < lines; base += kAtOnce * kPackWarps) {
      for (int at = lane; at < length; at += 32) {
        uint16_t values[kAtOnce];
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) {
          values[j] = element(base + j * kPackWarps, at);
        }
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) {
          const int line = base + j * kPackWarps;
          if (line < lines) {
            staged[depth_first ? at * pitch + line : line * pitch + at] =
                values[j];
          }
        }
      }
    }
    __syncthreads();
    for (int i = warp; i < steps * p.column_tiles; i += kPackWarps) {
      const int step = i / p.column_tiles;
      const int tile = i - step * p.column_tiles;
      const uint16_t* from = staged + step * 16 * pitch + tile * 16;
      uint32_t words[4];
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        words[w] = from[places[2 * w]] |
                   static_cast<uint32_t>(from[places[2 * w + 1]]) << 16;
      }
      packed
          [(static_cast<int64_t>(first + step) * p.column_tiles + tile) * 8 *
               32 +
           lane] = {words[0], words[1], words[2], words[3]};
    }
  }
}

// Blocks of a kernel that a multiprocessor holds at once, asked once.
cudaError_t blocks_at_once(
    const LoadedKernel& kernel, int threads, int shared_bytes, int* blocks) {
  static std::mutex mutex;
  static std::map<std::pair<const void*, int>, int> known;
  const void* function = reinterpret_cast<const void*>(kernel.kernel);
  int device = 0;
  cudaError_t status = cudaGetDevice(&device);
  if (status != cudaSuccess) {
    return status;
  }
  const std::lock_guard lock(mutex);
  const auto [found, added] = known.try_emplace({function, device}, 0);
  if (added) {
    status = cudaFuncSetAttribute(
        function, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
    if (status == cudaSuccess) {
      status = cudaOccupancyMaxActiveBlocksPerMultiprocessor(
          &found->second, function, threads, shared_bytes);
    }
    if (status != cudaSuccess) {
      known.erase(found);
      return status;
    }
  }
  *blocks = std::max(1, found->second);
  return cudaSuccess;
}

RowList list_of(const RoutedRows& rows) {
  return {
      rows.offsets,
      rows.order,
      rows.experts,
      rows.bins,
      rows.first,
      rows.last,
      rows.pairs};
}

cudaError_t activations_map(
    TensorMap* map, const void* data, const TensorBox& box, int64_t rows) {
  static_assert(sizeof(TensorMap) == sizeof(CUtensorMap));
  return encode_tensor_map(
      reinterpret_cast<CUtensorMap*>(map),
      static_cast<const __nv_bfloat16*>(data),
      static_cast<int64_t>(box.columns) * box.rows,
      rows,
      box);
}

// Slabs of vectors (slab, row, column); a box is eight columns of some rows.
cudaError_t slabs_map(
    TensorMap* map,
    const void* data,
    int columns,
    int rows,
    int slabs,
    int box_rows) {
  return encode_tensor_map(
      reinterpret_cast<CUtensorMap*>(map),
      static_cast<const __nv_bfloat16*>(data),
      static_cast<int64_t>(columns) * 8 * rows,
      slabs,
      {columns * 8, rows, 64, box_rows, 1});
}

template <typename Params>
cudaError_t launch_kernel(
    const LoadedKernel& kernel,
    unsigned grid,
    int threads,
    int shared_bytes,
    const Params& params,
    cudaStream_t stream) {
  // It starts while the kernel before it ends.
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.attrs = &attribute;
  config.numAttrs = 1;
  config.gridDim = dim3(grid);
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = stream;
  Params copy = params;
  void* arguments[] = {&copy};
  return cudaLaunchKernelExC(
      &config, reinterpret_cast<const void*>(kernel.kernel), arguments);
}

}  // namespace

cudaError_t load(const std::string& cubin, LoadedKernel* kernel) {
  cudaLibrary_t library = nullptr;
  const cudaError_t status = cudaLibraryLoadData(
      &library, cubin.data(), nullptr, nullptr, 0, nullptr, nullptr, 0);
  return status == cudaSuccess
             ? cudaLibraryGetKernel(&kernel->kernel, library, kKernelName)
             : status;
}

size_t packed_bytes(const StageShape& shape, int experts) {
  return 16 * static_cast<size_t>(shape.packed_vectors()) *
         static_cast<size_t>(experts);
}

namespace {

PackParams pack_params(
    const StageShape& shape,
    const BttSizes& s,
    const BttCores& cores,
    void* packed) {
  PackParams p{};
  p.packed = static_cast<uint4*>(packed);
  p.depth_tiles = shape.depth_tiles();
  p.depth_tiles_of_rho = shape.depth_tiles() / shape.rho;
  p.column_tiles = shape.all_tiles();
  p.all_vectors = shape.all_vectors();
  p.steps = std::max(1, kPackElements / (256 * p.column_tiles));
  p.rho = s.rho;
  p.slabs = shape.in_slabs;
  if (shape.in_slabs) {
    p.core = cores.b;
    p.expert_stride = cores.b_expert;
    p.batch_stride = cores.b_strides.phi;
    p.depth_stride = cores.b_strides.gamma;
    p.rho_stride = cores.b_strides.rho;
    p.column_stride = cores.b_strides.in;
    p.column_phi = s.epsilon;
    p.phi = s.epsilon;
    p.batch = s.phi;
    p.depth = s.gamma;
    p.columns = s.epsilon;
  } else {
    // Columns are (rho, phi of the shape).
    p.core = cores.a;
    p.expert_stride = cores.a_expert;
    p.batch_stride = cores.a_strides.gamma;
    p.depth_stride = cores.a_strides.in;
    p.rho_stride = cores.a_strides.rho;
    p.column_stride = cores.a_strides.phi;
    p.column_phi = shape.columns / s.rho;
    p.phi = s.phi;
    p.batch = s.gamma;
    p.depth = s.alpha;
    p.columns = shape.columns;
  }
  return p;
}

}  // namespace

cudaError_t pack(
    std::span<const PackedCore> targets,
    const BttSizes& s,
    const BttCores& cores,
    cudaStream_t stream) {
  PackAll all{};
  int batches = 0;
  int elements = 0;
  for (size_t i = 0; i < targets.size(); ++i) {
    const PackedCore& target = targets[i];
    const PackParams& p =
        (all.of[i] = pack_params(target.shape, s, cores, target.packed));
    batches = std::max(batches, target.shape.batch);
    elements = std::max(
        elements,
        std::min(p.steps, p.depth_tiles) * 16 *
            pack_pitch(16 * p.column_tiles));
  }
  const int bytes = 2 * elements;
  const cudaError_t status = cudaFuncSetAttribute(
      pack_stages, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (status != cudaSuccess) {
    return status;
  }
  pack_stages<<<
      dim3(
          static_cast<unsigned>(batches),
          static_cast<unsigned>(cores.experts),
          static_cast<unsigned>(targets.size())),
      kPackThreads,
      static_cast<size_t>(bytes),
      stream>>>(all);
  return cudaGetLastError();
}

cudaError_t launch(
    const LoadedKernel& kernel,
    const StageShape& shape,
    const StageLaunch& launch,
    const DeviceLimits& limits,
    cudaStream_t stream) {
  StageParams params{
      .in = {},
      .out = {},
      .in_data = launch.in,
      .out_data = launch.out,
      .slabs = shape.in_slabs ? nullptr : launch.out,
      .weights = launch.weights,
      .gates = launch.gates,
      .bias = static_cast<const uint16_t*>(launch.bias),
      .list = list_of(launch.rows),
      .slab_rows = launch.rows.pairs,
      .row_divisor = launch.row_divisor,
      .in_rows = static_cast<int32_t>(launch.in_rows),
      .out_rows = static_cast<int32_t>(launch.out_rows),
      .accumulate = launch.accumulate ? 1 : 0};
  int blocks = 1;
  cudaError_t status =
      blocks_at_once(kernel, shape.threads(), shape.shared_bytes(), &blocks);
  if (status == cudaSuccess && shape.in_slabs) {
    status = slabs_map(
        &params.in,
        launch.in,
        shape.batch * shape.rho,
        launch.rows.pairs,
        shape.depth / 8,
        shape.tokens);
  }
  if (status == cudaSuccess && !shape.whole_rows()) {
    const int columns = shape.in_slabs ? shape.columns : shape.depth;
    const int box_columns = shape.in_slabs ? shape.out_columns() : shape.depth;
    status = activations_map(
        shape.in_slabs ? &params.out : &params.in,
        shape.in_slabs ? launch.out : launch.in,
        {shape.batch, columns, 8 * shape.vectors, box_columns, 1},
        shape.in_slabs ? launch.out_rows : launch.in_rows);
  }
  if (status != cudaSuccess) {
    return status;
  }
  // A group of blocks, one for each part of the weights, has the same tiles.
  const int chunks = shape.vector_chunks() * shape.column_chunks();
  const int at_once = blocks * limits.multiprocessors;
  const int64_t tiles =
      static_cast<int64_t>(ceil_div(launch.rows.pairs, shape.tokens)) +
      (launch.rows.offsets == nullptr ? 0 : launch.rows.experts);
  const int64_t groups = std::min<int64_t>(tiles, at_once / chunks);
  return launch_kernel(
      kernel,
      static_cast<unsigned>(
          groups > 0 ? groups * chunks : std::min(chunks, at_once)),
      shape.threads(),
      shape.shared_bytes(),
      params,
      stream);
}

cudaError_t launch(
    const LoadedKernel& kernel,
    const GradShape& shape,
    const GradLaunch& launch,
    cudaStream_t stream) {
  GradParams params{
      .p = {},
      .q = {},
      .gates = launch.gates,
      .partials = launch.partials,
      .list = list_of(launch.rows),
      .row_divisor = launch.rows.active,
      .in_rows = static_cast<int32_t>(launch.p_rows),
      .splits = launch.splits};
  int blocks = 1;
  cudaError_t status =
      blocks_at_once(kernel, shape.threads(), shape.shared_bytes(), &blocks);
  if (status == cudaSuccess) {
    status = activations_map(
        &params.p,
        launch.p,
        {shape.batch, shape.rows, 8 * shape.groups, shape.block_rows(), 1},
        launch.p_rows);
  }
  if (status == cudaSuccess) {
    status = slabs_map(
        &params.q,
        launch.q,
        shape.batch * shape.rho,
        launch.rows.pairs,
        shape.columns / 8,
        16);
  }
  if (status != cudaSuccess) {
    return status;
  }
  return launch_kernel(
      kernel,
      static_cast<unsigned>(shape.blocks() * launch.splits),
      shape.threads(),
      shape.shared_bytes(),
      params,
      stream);
}

}  // namespace einforge::kernels::cuda::two_pass
