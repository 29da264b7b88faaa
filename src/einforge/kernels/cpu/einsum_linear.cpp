#include "einforge/kernels/cpu/einsum_linear.h"

#include <algorithm>

#include "einforge/kernels/cpu/einsum_linear_isa.h"

namespace einforge::kernels::cpu {
namespace {

constexpr std::int64_t kLine = 16;  // floats in a cache line

std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

const EinsumLinearIsa& implementation(Isa isa) {
#if defined(__x86_64__)
  switch (isa) {
    case Isa::kAvx512:
      return kEinsumLinearAvx512;
    case Isa::kAvx2:
      return kEinsumLinearAvx2;
    case Isa::kPortable:
      break;
  }
#else
  static_cast<void>(isa);
#endif
  return kEinsumLinearPortable;
}

// The tile in bytes of everything that is touched again and again.
std::int64_t footprint(
    const EinsumShape& s,
    EinsumPass pass,
    std::int64_t tile,
    std::int64_t group) {
  const std::int64_t z = s.second_depth() * group;
  const std::int64_t floats = pass == EinsumPass::kForward
                                  ? s.d_in() + z + s.second_out * group
                                  : 2 * s.d_in() + s.d_out() + 2 * z;
  return floats * tile * static_cast<std::int64_t>(sizeof(float));
}

}  // namespace

EinsumLayout layout_of(
    const EinsumShape& s,
    std::int64_t tile,
    std::int64_t group,
    EinsumPass pass,
    std::int64_t vector_floats) {
  EinsumLayout l{};
  const bool backward = pass == EinsumPass::kBackward;
  l.x_stride = round_up(s.first_in * tile + kLine, kLine);
  l.y_stride = round_up(s.second_out * tile + kLine, kLine);
  l.z_stride = round_up(s.second_depth() * tile + kLine, kLine);
  l.dz_stride = round_up(group * s.rho * tile + kLine, kLine);
  l.first_stride =
      round_up(s.first_columns() + vector_floats - 1, vector_floats);
  l.second_stride = round_up(s.second_out, vector_floats);
  std::int64_t end = 0;
  const auto place = [&](std::int64_t floats) {
    const std::int64_t at = end;
    end = round_up(end + floats, kLine);
    return at;
  };
  l.x_offsets = place(s.d_in());
  l.y_offsets = place(s.d_out());
  l.x = place(s.first_count() * l.x_stride);
  l.y = place((backward ? s.second_count() : group) * l.y_stride);
  l.z = place(group * l.z_stride);
  if (backward) {
    l.dx = place(s.first_count() * l.x_stride);
    l.dz = place(s.first_count() * l.dz_stride);
    l.transposed = place(
        tile *
        std::max(round_up(group * s.rho, vector_floats), l.second_stride));
    l.bias = place(s.d_out());
    l.first = place(s.gamma * s.first_in * l.first_stride);
    l.second = place(s.phi * s.second_depth() * l.second_stride);
  }
  l.total = end;
  return l;
}

EinsumTiling plan_einsum_linear(
    const EinsumShape& s,
    EinsumPass pass,
    Isa isa,
    std::int64_t workers,
    std::int64_t l2_bytes) {
  const std::int64_t vector = implementation(isa).vector_floats;
  // Pairs (u, f) whose features lie together in y: all, or those of some u, or
  // whole cache lines of one u's (order AB) or of all (order BA).
  const std::int64_t together = s.ab ? s.phi : s.second_count();
  EinsumTiling tiling;
  // Whether the largest group of `budget` bytes at this tile fits it.
  const auto fit = [&](std::int64_t tile, std::int64_t budget) {
    tiling.tile = tile;
    tiling.group = s.second_count();
    const auto fits = [&] {
      return footprint(s, pass, tile, tiling.group) <= budget;
    };
    while (tiling.group > together && !fits()) {
      tiling.group -= together;
    }
    while (tiling.group > kLine && !fits()) {
      tiling.group = (tiling.group - 1) / kLine * kLine;
    }
    return fits();
  };
  // A quarter of the cache is left to the weights that stream by. Wide layers
  // are faster with half of the tile beyond it than with shorter tiles, for
  // which the weights stream twice.
  if (!fit(64, l2_bytes / 4 * 3) && !fit(64, 2 * l2_bytes)) {
    fit(32, 2 * l2_bytes);
  }
  const std::int64_t share =
      std::max<std::int64_t>(1, (s.tokens + workers - 1) / workers);
  tiling.tile = std::min(tiling.tile, round_up(share, vector));
  const EinsumLayout layout =
      layout_of(s, tiling.tile, tiling.group, pass, vector);
  tiling.workspace = layout.total;
  tiling.workers = std::clamp<std::int64_t>(
      (s.tokens + tiling.tile - 1) / tiling.tile, 1, workers);
  return tiling;
}

void einsum_linear_forward(
    const EinsumForward& args, Isa isa, std::int64_t worker, float* workspace) {
  implementation(isa).forward(args, worker, workspace);
}

void einsum_linear_backward(
    const EinsumBackward& args,
    Isa isa,
    std::int64_t worker,
    float* workspace) {
  implementation(isa).backward(args, worker, workspace);
}

void einsum_linear_reduce(
    const EinsumBackward& args,
    Isa isa,
    std::int64_t worker,
    const float* workspaces) {
  const EinsumShape& s = args.shape;
  const std::int64_t workers = args.tiling.workers;
  const EinsumLayout l = layout_of(
      s,
      args.tiling.tile,
      args.tiling.group,
      EinsumPass::kBackward,
      implementation(isa).vector_floats);
  // Rows of `columns` floats, this worker's share of them.
  const auto reduce = [&](std::int64_t offset,
                          std::int64_t rows,
                          std::int64_t columns,
                          std::int64_t stride,
                          float* result) {
    if (result == nullptr) {
      return;
    }
    for (std::int64_t row = rows * worker / workers;
         row < rows * (worker + 1) / workers;
         ++row) {
      const float* part = workspaces + offset + row * stride;
      float* sum = result + row * columns;
      for (std::int64_t c = 0; c < columns; ++c) {
        sum[c] = part[c];
      }
      for (std::int64_t other = 1; other < workers; ++other) {
        part += args.tiling.workspace;
        for (std::int64_t c = 0; c < columns; ++c) {
          sum[c] += part[c];
        }
      }
    }
  };
  reduce(l.bias, s.d_out(), 1, 1, args.grad_bias);
  reduce(
      l.first,
      s.gamma * s.first_in,
      s.first_columns(),
      l.first_stride,
      args.grad_first);
  reduce(
      l.second,
      s.phi * s.second_depth(),
      s.second_out,
      l.second_stride,
      args.grad_second);
}

}  // namespace einforge::kernels::cpu
