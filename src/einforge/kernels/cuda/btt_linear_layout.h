#pragma once

#include <cstdint>

// Index maps that the packing kernel, the fused kernel and the host share.
// A "vector" is 16 bytes: eight bfloat16.
namespace einforge::kernels::cuda {

#ifdef __CUDACC__
#define EINFORGE_HOST_DEVICE __host__ __device__
#else
#define EINFORGE_HOST_DEVICE
#endif

inline constexpr int kVector = 8;         // bfloat16 in 16 bytes
inline constexpr int kFragmentRows = 16;  // m of mma.m16n8k16
inline constexpr int kFragmentDepth = 16;
// Vectors of one block of weights: eight fragments of 32 lanes.
inline constexpr int kBlockVectors = 8 * 32;

// Element (row, k) of an m16k16 fragment that `lane` holds at `i` (0 to 7).
struct FragmentIndex {
  int row;
  int k;
};

EINFORGE_HOST_DEVICE constexpr FragmentIndex fragment_index(int lane, int i) {
  return {lane / 4 + 8 * ((i / 2) % 2), 2 * (lane % 4) + i % 2 + 8 * (i / 4)};
}

// Which alpha of a step of 16 stands at depth k of the fragment. Any
// permutation gives the same sum; this one lets lane q of four read alphas
// q, 4 + q, 8 + q and 12 + q, so that four lanes read neighbours.
EINFORGE_HOST_DEVICE constexpr int alpha_of_depth(int k) {
  return 4 * (2 * (k / 8) + k % 2) + (k % 8) / 2;
}

// Shared memory of one block, in vectors.
//   x: [token][gamma vector][alpha], the row padded so that a warp's reads
//      (8 tokens, 4 alphas) fall in different banks;
//   z: [token][phi of this block, rho][gamma vector], an odd row.
struct SharedLayout {
  int gamma_vectors;        // of this block
  int gamma_vector_stride;  // between gamma vectors of x
  int x_row;                // between tokens of x
  int z_vectors;            // gamma vectors of the whole layer
  int z_columns;            // (phi, rho) of this block
  int z_row;                // between tokens of z
  int z_flip;               // 1 when odd columns swap neighbouring vectors
};

EINFORGE_HOST_DEVICE constexpr SharedLayout shared_layout(
    int alpha, int gamma, int phi, int rho, int cluster) {
  SharedLayout s{};
  s.gamma_vectors = gamma / cluster / kVector;
  // Consecutive threads copy consecutive gamma vectors: spread them over the
  // eight bank groups (alpha is a multiple of 8).
  const int spread = s.gamma_vectors >= 8 ? 1 : 8 / s.gamma_vectors;
  s.gamma_vector_stride = alpha + (s.gamma_vectors > 1 ? spread : 0);
  const int row = s.gamma_vectors * s.gamma_vector_stride;
  s.x_row = (row + 3) / 8 * 8 + 4;  // the smallest 4 modulo 8, at least row
  s.z_vectors = gamma / kVector;
  s.z_columns = phi / cluster * rho;
  s.z_row = s.z_columns * s.z_vectors | 1;
  s.z_flip = s.z_vectors % 2 == 0 ? 1 : 0;
  return s;
}

}  // namespace einforge::kernels::cuda
