#pragma once

#include <cstdint>

#include "einforge/kernels/cpu/isa.h"

// The BTT family (beta = delta = 1) on the CPU, float32:
//
//   z[t,f,g,r] = sum_i first[g,i,(f,r)] x[t,i,g]
//   y[t,v,f]   = sum_{g,r} second[f,(g,r),v] z[t,f,g,r] + bias[v,f]
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

struct BttShape {
  std::int64_t tokens = 0;
  std::int64_t in = 1;     // i: alpha in contraction order AB, else beta
  std::int64_t gamma = 1;  // g
  std::int64_t phi = 1;    // f
  std::int64_t rho = 1;    // r
  std::int64_t out = 1;    // v: epsilon in contraction order AB, else delta

  std::int64_t d_in() const { return in * gamma; }
  std::int64_t d_out() const { return out * phi; }
  std::int64_t first_size() const { return gamma * in * phi * rho; }
  std::int64_t second_size() const { return phi * gamma * rho * out; }
};

// How the work is cut; plan_btt_linear() chooses.
struct BttTiling {
  std::int64_t workers = 1;    // that have work to do
  std::int64_t tile = 64;      // tokens, a multiple of the vector width
  std::int64_t phi_group = 1;  // values of f whose z is alive together
  std::int64_t workspace = 0;  // floats a worker needs
};

enum class BttPass { kForward, kBackward };

// @param workers how many may share the work
// @param l2_bytes of one core's L2 cache
BttTiling plan_btt_linear(
    const BttShape& shape,
    BttPass pass,
    Isa isa,
    std::int64_t workers,
    std::int64_t l2_bytes);

struct BttForward {
  BttShape shape;
  BttTiling tiling;
  const float* x = nullptr;       // (tokens, in, gamma)
  const float* first = nullptr;   // (gamma, in, phi rho)
  const float* second = nullptr;  // (phi, gamma rho, out)
  const float* bias = nullptr;    // (out, phi) or none
  float* y = nullptr;             // (tokens, out, phi)
};

// @param workspace tiling.workspace floats of this worker's own, aligned to 64
void btt_linear_forward(
    const BttForward& args, Isa isa, std::int64_t worker, float* workspace);

// The gradients; z is computed again from x. Those whose pointer is null are
// left out.
struct BttBackward {
  BttShape shape;
  BttTiling tiling;
  const float* grad = nullptr;    // (tokens, out, phi), of y
  const float* x = nullptr;       // as in BttForward
  const float* first = nullptr;   //
  const float* second = nullptr;  //
  float* grad_x = nullptr;        // (tokens, in, gamma)
  float* grad_first = nullptr;    // (gamma, in, phi rho)
  float* grad_second = nullptr;   // (phi, gamma rho, out)
  float* grad_bias = nullptr;     // (out, phi)
};

// Writes grad_x, and this worker's part of the other gradients to its
// workspace.
// @param workspace tiling.workspace floats of this worker's own, aligned to 64
void btt_linear_backward(
    const BttBackward& args, Isa isa, std::int64_t worker, float* workspace);

// After every worker is done: adds the parts up, in the order of workers.
// @param workspaces of all workers, one after another
void btt_linear_reduce(
    const BttBackward& args,
    Isa isa,
    std::int64_t worker,
    const float* workspaces);

}  // namespace einforge::kernels::cpu
