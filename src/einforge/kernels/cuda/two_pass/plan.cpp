#include "einforge/kernels/cuda/two_pass/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace einforge::kernels::cuda::two_pass {
namespace {

// Of one multiprocessor: bytes of device memory per clock (4.2 TB/s, 132
// multiprocessors, 1.75 GHz), bytes of shared memory per clock, clocks of
// mma.m16n8k16 on one of four tensor cores.
constexpr double kMemoryBytes = 18;
constexpr double kL2Bytes = 32;
constexpr double kSharedBytes = 128;
constexpr double kMmaClocks = 6.3;
// A wait for all warps, and the first copy of a span.
constexpr double kTileClocks = 150;
constexpr double kSpanClocks = 2500;

// Elements of a box of TMA along one dimension.
constexpr int kMostBox = 256;

// What rows of so many bytes cost over whole lines of memory, as measured: a
// write of half a sector of 32 bytes is a read too.
double read_factor(int bytes) {
  return bytes >= 64 ? 1.0 : bytes >= 32 ? 1.2 : 1.7;
}
double write_factor(int bytes) {
  return bytes >= 64 ? 1.0 : bytes >= 32 ? 1.2 : 3.9;
}

template <typename Shape>
std::vector<Shape> cheapest(
    std::vector<std::pair<double, Shape>>& found, std::size_t most) {
  std::ranges::stable_sort(found, {}, &std::pair<double, Shape>::first);
  std::vector<Shape> shapes;
  for (const auto& [cost, shape] : found) {
    if (shapes.size() < most) {
      shapes.push_back(shape);
    }
  }
  return shapes;
}

constexpr int ceil_to(int value, int step) {
  return (value + step - 1) / step * step;
}

}  // namespace

bool is_legal(const StageShape& s, const Device& device) {
  return s.batch > 0 && s.batch % 8 == 0 && s.depth > 0 && s.rho > 0 &&
         s.columns > 0 && s.vectors > 0 && s.vectors <= s.all_vectors() &&
         s.tiles > 0 && s.tiles % s.column_tiles == 0 &&
         (s.in_slabs ? s.depth % 8 == 0 : s.rho == 1) &&
         (s.token_tiles == 2 || s.token_tiles == 4) &&
         (s.column_tiles == 1 || s.column_tiles == 2) &&
         s.column_tiles * s.token_tiles <= 4 &&
         s.tokens % (8 * s.token_tiles) == 0 && s.buffers >= 2 &&
         (s.warps == 8 ||
          // More sums than a thread has registers for.
          (s.warps == 12 && s.column_tiles * s.token_tiles <= 2)) &&
         s.depth <= kMostBox && s.out_columns() <= kMostBox &&
         s.shared_bytes() <= device.shared_bytes;
}

double cost(
    const StageShape& s, const StageProblem& problem, const Device& device) {
  const double chunks = s.vector_chunks() * s.column_chunks();
  const double row_tiles =
      static_cast<double>(problem.rows) / s.tokens + 0.5 * problem.experts;
  // Blocks of the same tiles come in groups of one for each chunk.
  const int blocks = device.multiprocessors;
  const double workers =
      chunks >= blocks ? blocks : blocks / static_cast<int>(chunks) * chunks;
  const double tiles = std::max(1.0, row_tiles * chunks / workers);
  // Bytes of one tile; the last chunks are smaller than the others.
  const double vectors =
      static_cast<double>(s.all_vectors()) / s.vector_chunks();
  const double columns = static_cast<double>(s.columns) / s.column_chunks();
  const double in = 16.0 * s.tokens * s.depth * vectors * s.rho *
                    read_factor(s.in_slabs ? 128 : 16 * s.vectors);
  const double out = 16.0 * s.tokens * columns * vectors *
                     (s.in_slabs ? write_factor(16 * s.vectors) : 1.0);
  // What all parts of the columns read comes from device memory once.
  const double memory = std::max(
      (in / s.column_chunks() + out) / kMemoryBytes, (in + out) / kL2Bytes);
  const double units = vectors * ((columns + 15) / 16 / s.column_tiles) *
                       (s.tokens / (8.0 * s.token_tiles));
  const double rounds =
      static_cast<double>(ceil_to(static_cast<int>(units + 0.999), s.warps)) /
      s.warps;
  const double mma = rounds * s.warps * s.depth_tiles() * 8 * s.column_tiles *
                     s.token_tiles * kMmaClocks / 4;
  const double loads =
      rounds * s.warps * s.depth_tiles() *
      (8.0 * s.column_tiles + (s.in_slabs ? 4.0 : 4.0) * s.token_tiles) * 512;
  const double shared = (loads + in + out / 2) / kSharedBytes;
  const double busy = std::max({memory, 1.3 * shared, 1.3 * mma});
  // Little in flight leaves the memory idle while warps compute, and few warps
  // leave their schedulers idle.
  const double overlap = 0.15 * (memory + shared + mma - busy) *
                         (1.0 / (s.buffers - 1) + 8.0 / s.warps) / 2;
  const double weights = s.weight_bytes() / 20.0 + kSpanClocks;
  const double spans = 1 + problem.experts * chunks / workers;
  return tiles * (busy + overlap + kTileClocks) + spans * weights;
}

std::vector<StageShape> propose(
    const StageProblem& problem, const Device& device, std::size_t most) {
  std::vector<std::pair<double, StageShape>> found;
  const int all_vectors = problem.batch / 8;
  const int all_tiles = (problem.columns + 15) / 16;
  for (const int vectors : {1, 2, 4, 8}) {
    for (int parts = 1; parts <= all_tiles; ++parts) {
      for (const auto& [column_tiles, token_tiles] :
           {std::pair{1, 2}, {1, 4}, {2, 2}}) {
        const int tiles =
            ceil_to((all_tiles + parts - 1) / parts, column_tiles);
        for (const int tokens : {16, 32, 64, 128}) {
          for (const int warps : {8, 12}) {
            for (const int buffers : {2, 3, 4, 6}) {
              const StageShape shape{
                  .batch = problem.batch,
                  .depth = problem.depth,
                  .rho = problem.rho,
                  .columns = problem.columns,
                  .in_slabs = problem.in_slabs,
                  .vectors = vectors,
                  .tiles = tiles,
                  .tokens = tokens,
                  .token_tiles = token_tiles,
                  .column_tiles = column_tiles,
                  .warps = warps,
                  .buffers = buffers};
              if (vectors <= all_vectors && is_legal(shape, device)) {
                found.emplace_back(cost(shape, problem, device), shape);
              }
            }
          }
        }
      }
    }
  }
  return cheapest(found, most);
}

std::vector<GradShape> propose(
    const GradProblem& problem, const Device& device, std::size_t most) {
  std::vector<std::pair<double, GradShape>> found;
  constexpr int kMostBuffers = 6;
  struct Cut {
    int groups;
    int row_tiles;
    int column_tiles;
  };
  for (const Cut& cut :
       {Cut{1, 4, 2},
        {1, 2, 4},
        {1, 8, 1},
        {2, 2, 2},
        {2, 4, 1},
        {2, 1, 4},
        {4, 2, 1},
        {4, 1, 2},
        {8, 1, 1}}) {
    GradShape shape{
        .batch = problem.batch,
        .rows = problem.rows,
        .rho = problem.rho,
        .columns = problem.columns,
        .groups = cut.groups,
        .row_tiles = cut.row_tiles,
        .column_tiles = cut.column_tiles,
        .buffers = kMostBuffers};
    while (shape.buffers > 2 && shape.shared_bytes() > device.shared_bytes) {
      --shape.buffers;
    }
    if (shape.shared_bytes() > device.shared_bytes) {
      continue;
    }
    const double p =
        shape.block_rows() * cut.groups * read_factor(16 * cut.groups);
    const double q = 8.0 * cut.groups * shape.column_vectors();
    const double bytes = shape.blocks() * (p + q);
    found.emplace_back(bytes, shape);
  }
  return cheapest(found, most);
}

int splits_of(const GradShape& shape, int64_t rows, const Device& device) {
  const int64_t steps = (rows + 15) / 16;
  return static_cast<int>(std::clamp<int64_t>(
      steps / 4, 1, std::max(1, device.multiprocessors / shape.blocks())));
}

std::string source_of(const StageShape& s) {
  return fmt::format(
      "#include \"einforge/kernels/cuda/two_pass/stage.cuh\"\n"
      "using namespace einforge::kernels::cuda::two_pass;\n"
      "constexpr StageShape kShape{{{}, {}, {}, {}, {}, {}, {}, {}, {}, {}, "
      "{}, {}}};\n"
      "extern \"C\" __global__ void __launch_bounds__({}, 1)\n"
      "{}(const __grid_constant__ StageParams params) {{\n"
      "  run_stage<kShape>(params);\n"
      "}}\n",
      s.batch,
      s.depth,
      s.rho,
      s.columns,
      s.in_slabs,
      s.vectors,
      s.tiles,
      s.tokens,
      s.token_tiles,
      s.column_tiles,
      s.warps,
      s.buffers,
      s.threads(),
      kKernelName);
}

std::string source_of(const GradShape& s) {
  return fmt::format(
      "#include \"einforge/kernels/cuda/two_pass/weight_grad.cuh\"\n"
      "using namespace einforge::kernels::cuda::two_pass;\n"
      "constexpr GradShape kShape{{{}, {}, {}, {}, {}, {}, {}, {}}};\n"
      "extern \"C\" __global__ void __launch_bounds__({}, 1)\n"
      "{}(const __grid_constant__ GradParams params) {{\n"
      "  run_grad<kShape>(params);\n"
      "}}\n",
      s.batch,
      s.rows,
      s.rho,
      s.columns,
      s.groups,
      s.row_tiles,
      s.column_tiles,
      s.buffers,
      s.threads(),
      kKernelName);
}

}  // namespace einforge::kernels::cuda::two_pass
