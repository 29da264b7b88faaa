#include "einforge/kernels/cuda/two_pass/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <set>
#include <string_view>
#include <utility>

namespace einforge::kernels::cuda::two_pass {
namespace {

// Of one multiprocessor of an H200, fitted to measured stages: bytes per clock
// from device memory and from L2 with all others at it, clocks of mma.m16n8k16
// on one of four tensor cores.
constexpr double kMemoryBytes = 20.8;
constexpr double kL2Bytes = 23.8;
constexpr double kMmaClocks = 6.8;
// Waits: for each round of units in a tile, for the weights of a span and each
// of their bytes, and of a kernel.
constexpr double kRoundClocks = 650;
constexpr double kSpanClocks = 500;
constexpr double kWeightBytes = 6;
constexpr double kKernelClocks = 8800;
// Of the rows that a stage writes those that a copy would read: a mixture's
// forward pass sums two, its backward pass does not.
constexpr double kCopies = 0.75;
// What it costs to write a half of a sector, and a sector alone, over one of a
// longer piece.
constexpr double kWriteHalf = 2.4;
constexpr double kWriteAlone = 1.4;
// A step of a gradient's sums.
constexpr double kGradClocks = 2100;

// Of the batch that a block has.
constexpr int kMostVectors = 16;
// Elements of a box of TMA along one dimension.
constexpr int kMostBox = 256;

// The sectors of 32 bytes that pieces of so many vectors of two rows of
// all_vectors touch: whole ones, and those of which a piece has a half. Rows of
// an odd number of vectors start in the middle of one every other time.
struct Sectors {
  double whole = 0;
  double half = 0;

  Sectors(int vectors, int all_vectors) {
    for (int row = 0; row < 2; ++row) {
      for (int first = 0; first < all_vectors; first += vectors) {
        const int begin = row * all_vectors + first;
        const int end = begin + std::min(vectors, all_vectors - first);
        whole += std::max(0, end / 2 - (begin + 1) / 2);
        half += begin % 2 + end % 2;
      }
    }
  }
};

// What reading and writing such pieces cost over whole lines of memory.
double read_factor(int vectors, int all_vectors) {
  const Sectors sectors(vectors, all_vectors);
  return (sectors.whole + sectors.half) / all_vectors;
}
double write_factor(int vectors, int all_vectors) {
  const Sectors sectors(vectors, all_vectors);
  return (sectors.whole * (vectors == 2 ? kWriteAlone : 1) +
          sectors.half * kWriteHalf) /
         all_vectors;
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
         ((s.vectors & (s.vectors - 1)) == 0 || s.whole_rows()) &&
         (s.width == 0 || (s.in_slabs && s.whole_rows() && s.width % 2 == 0 &&
                           s.width < s.batch && s.width > s.batch - 8 &&
                           s.columns * s.width % 8 == 0)) &&
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
  // Bytes of one tile: in the mean, as the last chunks may be smaller than the
  // others, and of those, which the others wait for.
  const auto bytes = [&](double vectors, double columns, double copies) {
    const double read = s.in_slabs || s.whole_rows()
                            ? 1
                            : read_factor(s.vectors, s.all_vectors());
    const double write = !s.in_slabs || s.whole_rows()
                             ? 1
                             : write_factor(s.vectors, s.all_vectors());
    const double in =
        16.0 * s.tokens * s.depth * vectors * s.rho * read / copies;
    const double out = 16.0 * s.tokens * columns * vectors * write;
    return in + out;
  };
  // What all parts of the columns read comes from device memory once.
  const double memory =
      bytes(
          static_cast<double>(s.all_vectors()) / s.vector_chunks(),
          static_cast<double>(s.columns) / s.column_chunks(),
          s.column_chunks()) /
      kMemoryBytes;
  const double l2 =
      bytes(s.vectors, std::min(s.columns, s.out_columns()), 1) / kL2Bytes;
  const int units =
      s.vectors * (s.tiles / s.column_tiles) * (s.tokens / (8 * s.token_tiles));
  const int rounds = (units + s.warps - 1) / s.warps;
  const double mma = static_cast<double>(rounds) * s.warps * s.depth_tiles() *
                     8 * s.column_tiles * s.token_tiles * kMmaClocks / 4;
  // More tiles in flight can only help.
  const double tile = std::max({memory, l2, mma}) +
                      kRoundClocks * rounds * (s.token_tiles > 2 ? 1.45 : 1) +
                      100.0 / (s.buffers - 1);
  const double spans = 1 + problem.experts * chunks / workers;
  // Of rows with padding, which are read and written once more.
  const double copy = problem.width == s.width
                          ? 0
                          : kCopies * problem.rows * s.columns *
                                (s.batch + problem.width) * 2 /
                                (kMemoryBytes * blocks);
  return copy + tiles * tile +
         spans * (s.weight_bytes() / kWeightBytes + kSpanClocks) +
         kKernelClocks;
}

std::vector<StageShape> propose(
    const StageProblem& problem, const Device& device, std::size_t most) {
  std::vector<std::pair<double, StageShape>> found;
  const int all_vectors = problem.batch / 8;
  const int all_tiles = (problem.columns + 15) / 16;
  std::set<int> vector_counts{1, 2, 4, 8};
  vector_counts.insert(std::min(all_vectors, kMostVectors));
  const std::set<int> widths{0, problem.width};
  for (const int vectors : vector_counts) {
    for (int parts = 1; parts <= all_tiles; ++parts) {
      for (const auto& [column_tiles, token_tiles] :
           {std::pair{1, 2}, {1, 4}, {2, 2}}) {
        const int tiles =
            ceil_to((all_tiles + parts - 1) / parts, column_tiles);
        for (const int tokens : {16, 32, 64, 128}) {
          for (const int warps : {8, 12}) {
            for (const int buffers : {2, 3, 4, 6}) {
              for (const int width : widths) {
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
                    .buffers = buffers,
                    .width = width};
                if (vectors <= all_vectors && is_legal(shape, device)) {
                  found.emplace_back(cost(shape, problem, device), shape);
                }
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
    const double p = 256.0 * shape.block_rows() * cut.groups *
                     read_factor(cut.groups, problem.batch / 8);
    const double step = std::max(kGradClocks, (p + shape.q_bytes()) / kL2Bytes);
    found.emplace_back(shape.blocks() * step, shape);
  }
  return cheapest(found, most);
}

int splits_of(const GradShape& shape, int64_t rows, const Device& device) {
  const int64_t steps = (rows + 15) / 16;
  return static_cast<int>(std::clamp<int64_t>(
      steps / 4, 1, std::max(1, device.multiprocessors / shape.blocks())));
}

namespace {

// EINFORGE_RACECHECK=1 is for compute-sanitizer (kArrivingLanes).
std::string_view definitions() {
  const char* racecheck = std::getenv("EINFORGE_RACECHECK");
  return racecheck != nullptr && std::string_view(racecheck) == "1"
             ? "#define EINFORGE_RACECHECK\n"
             : "";
}

}  // namespace

std::string source_of(const StageShape& s) {
  return fmt::format(
      "{}#include \"einforge/kernels/cuda/two_pass/stage.cuh\"\n"
      "using namespace einforge::kernels::cuda::two_pass;\n"
      "constexpr StageShape kShape{{{}, {}, {}, {}, {}, {}, {}, {}, {}, {}, "
      "{}, {}, {}}};\n"
      "extern \"C\" __global__ void __launch_bounds__({}, 1)\n"
      "{}(const __grid_constant__ StageParams params) {{\n"
      "  run_stage<kShape>(params);\n"
      "}}\n",
      definitions(),
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
      s.width,
      s.threads(),
      kKernelName);
}

std::string source_of(const GradShape& s) {
  return fmt::format(
      "{}#include \"einforge/kernels/cuda/two_pass/weight_grad.cuh\"\n"
      "using namespace einforge::kernels::cuda::two_pass;\n"
      "constexpr GradShape kShape{{{}, {}, {}, {}, {}, {}, {}, {}}};\n"
      "extern \"C\" __global__ void __launch_bounds__({}, 1)\n"
      "{}(const __grid_constant__ GradParams params) {{\n"
      "  run_grad<kShape>(params);\n"
      "}}\n",
      definitions(),
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
