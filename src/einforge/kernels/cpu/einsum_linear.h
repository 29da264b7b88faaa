#pragma once

#include <cstdint>

#include "einforge/kernels/cpu/isa.h"

// The two-core einsum layer on the CPU, float32, with its cores in the order
// in which they are contracted (ops/contraction.h):
//
//   z[t,u,f,s,g,r] = sum_i first[g,i,(u,f,r)] x[t,(i,s),g]
//   y[t,(u,v),f]   = sum_{s,g,r} second[f,(s,g,r),v] z[t,u,f,s,g,r] + bias
//
// x, z and y go through memory once: a worker takes a tile of tokens into its
// L2 cache, transposed so that tokens are the fastest dimension, and does all
// there. Then every product is (weight broadcast) x (vector of tokens), the
// permutations between the stages are only addresses, and no size has to be a
// multiple of anything.
//
// A call does the share of one worker out of `tiling.workers`, so that the
// caller brings its own threads; shares are disjoint and fixed, so results are
// bitwise the same for the same number of workers. No allocation, no locks.
namespace einforge::kernels::cpu {

struct EinsumShape {
  std::int64_t tokens = 0;
  std::int64_t first_in = 1;    // i
  std::int64_t second_in = 1;   // s
  std::int64_t gamma = 1;       // g
  std::int64_t first_out = 1;   // u
  std::int64_t second_out = 1;  // v
  std::int64_t phi = 1;         // f
  std::int64_t rho = 1;         // r
  // Contraction order AB: features of x in memory are (i, s, g) and those of y
  // (u, v, f). Else, order BA, they are (s, i, g) and (v, u, f).
  bool ab = true;

  std::int64_t d_in() const { return first_in * second_in * gamma; }
  std::int64_t d_out() const { return first_out * second_out * phi; }
  // Products of the first stage: the pairs (s, g); of the second: (u, f).
  std::int64_t first_count() const { return second_in * gamma; }
  std::int64_t second_count() const { return first_out * phi; }
  // The cores as batches of matrices: (gamma, first_in, first_columns) and
  // (phi, second_depth, second_out).
  std::int64_t first_columns() const { return first_out * phi * rho; }
  std::int64_t second_depth() const { return second_in * gamma * rho; }
  std::int64_t first_size() const { return gamma * first_in * first_columns(); }
  std::int64_t second_size() const { return phi * second_depth() * second_out; }
};

// How the work is cut; plan_einsum_linear() chooses.
struct EinsumTiling {
  std::int64_t workers = 1;    // that have work to do
  std::int64_t tile = 64;      // tokens, a multiple of the vector width
  std::int64_t group = 1;      // pairs (u, f) whose z is alive together
  std::int64_t workspace = 0;  // floats a worker needs
};

enum class EinsumPass { kForward, kBackward };

// @param workers how many may share the work
// @param l2_bytes of one core's L2 cache
EinsumTiling plan_einsum_linear(
    const EinsumShape& shape,
    EinsumPass pass,
    Isa isa,
    std::int64_t workers,
    std::int64_t l2_bytes);

// An expert of a mixture has some of the tokens, each with a gate:
//
//   y[numbers[t]] (+)= scale[t] M x[numbers[t]]
//
// All are null for a layer of all tokens.
struct EinsumRows {
  // Rows of x, y and their gradients; null: as many from the first one on. No
  // number is there twice, as workers write the rows side by side.
  const std::int32_t* numbers = nullptr;
  const float* scale = nullptr;
  // Whether the row of y, and of x's gradient, is added to, or written.
  const std::uint8_t* adds = nullptr;
};

struct EinsumForward {
  EinsumShape shape;
  EinsumTiling tiling;
  EinsumRows rows;
  const float* x = nullptr;       // (tokens, d_in)
  const float* first = nullptr;   // (gamma, i, (u, f, r))
  const float* second = nullptr;  // (phi, (s, g, r), v)
  const float* bias = nullptr;    // (d_out) or none; not of rows added to
  float* y = nullptr;             // (tokens, d_out)
};

// @param workspace tiling.workspace floats of this worker's own, aligned to 64
void einsum_linear_forward(
    const EinsumForward& args, Isa isa, std::int64_t worker, float* workspace);

// The gradients; z is computed again from x. Those whose pointer is null are
// left out.
struct EinsumBackward {
  EinsumShape shape;
  EinsumTiling tiling;
  EinsumRows rows;
  const float* grad = nullptr;    // (tokens, d_out), of y
  const float* x = nullptr;       // as in EinsumForward
  const float* first = nullptr;   // as in EinsumForward
  const float* second = nullptr;  //
  float* grad_x = nullptr;        // (tokens, d_in)
  float* grad_first = nullptr;    // (gamma, i, (u, f, r))
  float* grad_second = nullptr;   // (phi, (s, g, r), v)
  float* grad_bias = nullptr;     // (d_out)
  float* grad_scale = nullptr;    // (tokens), of rows.scale
};

// Writes grad_x and grad_scale, and this worker's part of the other gradients
// to its workspace.
// @param workspace tiling.workspace floats of this worker's own, aligned to 64
void einsum_linear_backward(
    const EinsumBackward& args, Isa isa, std::int64_t worker, float* workspace);

// After every worker is done: adds the parts up, in the order of workers.
// @param workspaces of all workers, one after another
void einsum_linear_reduce(
    const EinsumBackward& args,
    Isa isa,
    std::int64_t worker,
    const float* workspaces);

}  // namespace einforge::kernels::cpu
