#include "einforge/kernels/cpu/btt_linear.h"

#include <algorithm>

#include "einforge/kernels/cpu/btt_linear_isa.h"

namespace einforge::kernels::cpu {
namespace {

constexpr std::int64_t kLine = 16;  // floats in a cache line

std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

const BttLinearIsa& implementation(Isa isa) {
#if defined(__x86_64__)
  switch (isa) {
    case Isa::kAvx512:
      return kBttLinearAvx512;
    case Isa::kAvx2:
      return kBttLinearAvx2;
    case Isa::kPortable:
      break;
  }
#else
  static_cast<void>(isa);
#endif
  return kBttLinearPortable;
}

// The tile in bytes of everything that is touched again and again.
std::int64_t footprint(
    const BttShape& s, BttPass pass, std::int64_t tile, std::int64_t group) {
  const std::int64_t z = s.gamma * s.rho * group;
  const std::int64_t floats = pass == BttPass::kForward
                                  ? s.d_in() + z + s.out * group
                                  : 2 * s.d_in() + s.d_out() + 2 * z;
  return floats * tile * static_cast<std::int64_t>(sizeof(float));
}

}  // namespace

BttLayout layout_of(
    const BttShape& s,
    std::int64_t tile,
    std::int64_t phi_group,
    BttPass pass,
    std::int64_t vector_floats) {
  BttLayout l{};
  const bool backward = pass == BttPass::kBackward;
  l.x_stride = round_up(s.in * tile + kLine, kLine);
  l.y_stride = round_up(s.out * tile + kLine, kLine);
  l.z_stride = round_up(s.gamma * s.rho * tile + kLine, kLine);
  l.dz_stride = round_up(phi_group * s.rho * tile + kLine, kLine);
  l.first_columns = round_up(s.phi * s.rho, vector_floats);
  l.second_columns = round_up(s.out, vector_floats);
  std::int64_t end = 0;
  const auto place = [&](std::int64_t floats) {
    const std::int64_t at = end;
    end = round_up(end + floats, kLine);
    return at;
  };
  l.x_offsets = place(s.d_in());
  l.y_offsets = place(s.d_out());
  l.x = place(s.gamma * l.x_stride);
  l.y = place((backward ? s.phi : phi_group) * l.y_stride);
  l.z = place(phi_group * l.z_stride);
  if (backward) {
    l.dx = place(s.gamma * l.x_stride);
    l.dz = place(s.gamma * l.dz_stride);
    l.transposed = place(
        tile *
        std::max(round_up(phi_group * s.rho, vector_floats), l.second_columns));
    l.bias = place(s.d_out());
    l.first = place(s.gamma * s.in * l.first_columns);
    l.second = place(s.phi * s.gamma * s.rho * l.second_columns);
  }
  l.total = end;
  return l;
}

BttTiling plan_btt_linear(
    const BttShape& s,
    BttPass pass,
    Isa isa,
    std::int64_t workers,
    std::int64_t l2_bytes) {
  const std::int64_t vector = implementation(isa).vector_floats;
  // A third is left to the weights that stream by.
  const std::int64_t budget = l2_bytes / 3 * 2;
  // Groups of whole cache lines of y, or all of phi.
  const auto largest_group = [&](std::int64_t tile) {
    std::int64_t group = s.phi;
    while (group > kLine && footprint(s, pass, tile, group) > budget) {
      group = (group - 1) / kLine * kLine;
    }
    return group;
  };
  BttTiling tiling;
  tiling.tile = 64;
  tiling.phi_group = largest_group(tiling.tile);
  if (footprint(s, pass, tiling.tile, tiling.phi_group) > budget) {
    tiling.tile = 32;
    tiling.phi_group = largest_group(tiling.tile);
  }
  const std::int64_t share =
      std::max<std::int64_t>(1, (s.tokens + workers - 1) / workers);
  tiling.tile = std::min(tiling.tile, round_up(share, vector));
  const BttLayout layout =
      layout_of(s, tiling.tile, tiling.phi_group, pass, vector);
  tiling.workspace = layout.total;
  tiling.workers = std::clamp<std::int64_t>(
      (s.tokens + tiling.tile - 1) / tiling.tile, 1, workers);
  return tiling;
}

void btt_linear_forward(
    const BttForward& args, Isa isa, std::int64_t worker, float* workspace) {
  implementation(isa).forward(args, worker, workspace);
}

void btt_linear_backward(
    const BttBackward& args, Isa isa, std::int64_t worker, float* workspace) {
  implementation(isa).backward(args, worker, workspace);
}

void btt_linear_reduce(
    const BttBackward& args,
    Isa isa,
    std::int64_t worker,
    const float* workspaces) {
  const BttShape& s = args.shape;
  const std::int64_t workers = args.tiling.workers;
  const BttLayout l = layout_of(
      s,
      args.tiling.tile,
      args.tiling.phi_group,
      BttPass::kBackward,
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
      l.first, s.gamma * s.in, s.phi * s.rho, l.first_columns, args.grad_first);
  reduce(
      l.second,
      s.phi * s.gamma * s.rho,
      s.out,
      l.second_columns,
      args.grad_second);
}

}  // namespace einforge::kernels::cpu
