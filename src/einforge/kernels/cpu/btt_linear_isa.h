#pragma once

#include "einforge/kernels/cpu/btt_linear.h"

// One compilation of btt_linear_tile.h for each instruction set; internal to
// this folder.
namespace einforge::kernels::cpu {

struct BttLinearIsa {
  std::int64_t vector_floats;
  void (*forward)(
      const BttForward& args, std::int64_t worker, float* workspace);
  void (*backward)(
      const BttBackward& args, std::int64_t worker, float* workspace);
};

extern const BttLinearIsa kBttLinearPortable;
#if defined(__x86_64__)
extern const BttLinearIsa kBttLinearAvx2;
extern const BttLinearIsa kBttLinearAvx512;
#endif

// Where a worker's workspace holds what, in floats. Every block starts on a
// cache line.
struct BttLayout {
  // Activation tiles are (gamma or phi, in or out, tile): the strides of the
  // first dimension, a cache line longer than they need to be, because powers
  // of two would put all rows in the same few sets of the cache.
  std::int64_t x_stride;
  std::int64_t y_stride;
  std::int64_t z_stride;   // z tile: (phi group, gamma rho, tile)
  std::int64_t dz_stride;  // its gradient: (gamma, phi group rho, tile)

  std::int64_t x_offsets;  // int32, (d_in): of feature c's row in the x tile
  std::int64_t y_offsets;  // int32, (d_out)
  std::int64_t x;
  std::int64_t y;   // forward: a group of phi; backward: the gradient, whole
  std::int64_t dx;  // backward only, as those below
  std::int64_t z;
  std::int64_t dz;
  std::int64_t transposed;  // (tile, longest row)
  std::int64_t bias;        // (d_out): partial gradients, as those below
  std::int64_t first;       // (gamma, in, first_columns)
  std::int64_t second;      // (phi, gamma rho, second_columns)
  std::int64_t total;
  // Rows of partial gradients, rounded up to whole vectors.
  std::int64_t first_columns;
  std::int64_t second_columns;
};

BttLayout layout_of(
    const BttShape& shape,
    std::int64_t tile,
    std::int64_t phi_group,
    BttPass pass,
    std::int64_t vector_floats);

}  // namespace einforge::kernels::cpu
