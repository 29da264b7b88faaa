#pragma once

#include "einforge/kernels/cpu/einsum_linear.h"

// One compilation of einsum_linear_tile.h for each instruction set; internal to
// this folder.
namespace einforge::kernels::cpu {

struct EinsumLinearIsa {
  std::int64_t vector_floats;
  void (*forward)(
      const EinsumForward& args, std::int64_t worker, float* workspace);
  void (*backward)(
      const EinsumBackward& args, std::int64_t worker, float* workspace);
};

extern const EinsumLinearIsa kEinsumLinearPortable;
#if defined(__x86_64__)
extern const EinsumLinearIsa kEinsumLinearAvx2;
extern const EinsumLinearIsa kEinsumLinearAvx512;
#endif

// Where a worker's workspace holds what, in floats. Every block starts on a
// cache line.
struct EinsumLayout {
  // Activation tiles are ((s, g) or (u, f), i or v, tile): the strides of the
  // first dimension, a cache line longer than they need to be, because powers
  // of two would put all rows in the same few sets of the cache.
  std::int64_t x_stride;
  std::int64_t y_stride;
  std::int64_t z_stride;   // z tile: (group, (s, g, r), tile)
  std::int64_t dz_stride;  // its gradient: ((s, g), group rho, tile)

  std::int64_t x_offsets;  // int32, (d_in): of feature c's row in the x tile
  std::int64_t y_offsets;  // int32, (d_out)
  std::int64_t x;
  std::int64_t y;   // forward: a group; backward: the gradient, whole
  std::int64_t dx;  // backward only, as those below
  std::int64_t z;
  std::int64_t dz;
  std::int64_t transposed;  // (tile, longest row)
  std::int64_t bias;        // (d_out): partial gradients, as those below
  std::int64_t first;       // (gamma, i, first_stride)
  std::int64_t second;      // (phi, (s, g, r), second_stride)
  std::int64_t total;
  // Rows of partial gradients, with room for the whole vectors that a group of
  // columns is rounded up to.
  std::int64_t first_stride;
  std::int64_t second_stride;
};

EinsumLayout layout_of(
    const EinsumShape& shape,
    std::int64_t tile,
    std::int64_t group,
    EinsumPass pass,
    std::int64_t vector_floats);

}  // namespace einforge::kernels::cpu
