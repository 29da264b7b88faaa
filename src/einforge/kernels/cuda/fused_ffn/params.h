#pragma once

#include <cstdint>

// What the host and the kernels of fused_ffn/ share. Compiled by the host's
// compiler and by NVRTC.
namespace einforge::kernels::cuda::fused_ffn {

// Warps of a block of each kernel.
inline constexpr int kForwardWarps = 16;
inline constexpr int kMiddleWarps = 8;

// Two layers of rank one with a GELU between, where the hidden features of
// both are the same (hidden, middle) grid, `middle` contiguous:
//
//   z1[t, p, g]  = sum_a x[t, a, g] A1[a, g, p]
//   h[t, n, p]   = gelu(sum_g z1[t, p, g] B1[g, n, p] + bias1[n, p])
//   z2[t, p, f]  = sum_n h[t, n, p] A2[n, p, f]
//   y[t, e, f]   = sum_p z2[t, p, f] B2[p, e, f] + bias2[e, f]
//
// For each p the middle two are a small MLP of its own.
struct FfnShape {
  int alpha;    // a; x is (tokens, alpha, gamma)
  int gamma;    // g, a multiple of 8, at most 32
  int middle;   // p, a multiple of 16
  int hidden;   // n, a multiple of 16
  int phi;      // f, a multiple of 8, at most 32
  int epsilon;  // e; y is (tokens, epsilon, phi)
  int tokens;   // of a tile, a multiple of 16
  int slots;    // of eight tokens of x in shared memory, at least 2

  // Vectors are 16 bytes; a warp has fragments of 32 vectors.
  constexpr int in_vectors() const { return gamma / 8; }
  constexpr int out_vectors() const { return phi / 8; }
  constexpr int in_steps() const { return (alpha + 15) / 16; }
  constexpr int out_steps() const { return middle / 16; }
  constexpr int out_tiles() const { return (epsilon + 15) / 16; }
  // A warp's part of the first stage: a vector of gamma, 16 p.
  constexpr int in_units() const { return in_vectors() * (middle / 16); }
  // Of the last: half a vector of phi, 16 epsilons.
  constexpr int out_units() const { return 2 * out_vectors() * out_tiles(); }

  // Packed cores, in fragments: A1 of each unit, step and gamma of a vector;
  // B1 and A2 and bias1 of each p, B1 and bias1 halved (gelu_of_half()); B2 as
  // A1.
  constexpr int in_fragments() const { return in_units() * in_steps() * 8; }
  constexpr int bias_words() const { return (hidden / 8 + 3) / 4 * 4; }
  constexpr int middle_fragments() const { return 2 * (hidden / 8); }
  constexpr int out_fragments() const { return out_units() * out_steps() * 4; }
  constexpr int middle_first() const { return in_fragments() * 32; }
  constexpr int out_first() const {
    return middle_first() + middle * middle_fragments() * 32;
  }
  constexpr int bias_first() const {
    return out_first() + out_fragments() * 32;
  }
  // A lane has bias_words() of bias1, the same for lanes of equal lane % 4.
  constexpr int packed_vectors() const {
    return bias_first() + middle * bias_words();
  }

  // Shared memory: z1 and z2 in rows of 64 bytes (p, token), x in rows of 64
  // bytes (token, alpha).
  constexpr int z_bytes() const { return middle * tokens * 64; }
  constexpr int slot_bytes() const { return 8 * in_steps() * 16 * 64; }
  constexpr int shared_bytes() const {
    return z_bytes() + slots * slot_bytes();
  }
};

struct FfnParams {
  const uint16_t* x;      // (tokens, alpha, gamma) bfloat16
  uint16_t* y;            // (tokens, epsilon, phi) bfloat16
  const void* packed;     // FfnShape::packed_vectors()
  const uint16_t* bias2;  // (epsilon, phi) bfloat16, or null
  int64_t tokens;
};

// The middle of the backward pass, in slabs as two_pass/ has them: vectors of
// eight gammas (phis) of z1 (dz2), (vector, token, p), in, and vectors of eight
// p of dz1 (z2), (vector of p, token, gamma or phi), out.
struct MiddleShape {
  int gamma;   // a multiple of 8, at most 32
  int middle;  // p, a multiple of 8
  int hidden;  // n, a multiple of 16, at most 64
  int phi;     // a multiple of 8, at most 32
  int tokens;  // of a tile: 16
  int slots;   // tiles in shared memory, at least 2

  // Packed cores of each p: B1, halved, and A2 by hidden column, then A2 and B1
  // by hidden row, hidden / 8 fragments each; then bias1 of all p, halved.
  constexpr int core_fragments() const { return 4 * (hidden / 8); }
  constexpr int bias_words() const { return (hidden / 8 + 3) / 4 * 4; }
  constexpr int bias_first() const { return middle * core_fragments() * 32; }
  constexpr int packed_vectors() const {
    return bias_first() + middle * bias_words();
  }
  constexpr int row_blocks() const { return middle / 8; }

  // Shared memory: the cores of eight p, tiles of z1 and dz2 in rows of 64
  // bytes (p, token).
  constexpr int core_bytes() const { return 8 * core_fragments() * 512; }
  constexpr int half_bytes() const { return 8 * tokens * 64; }
  constexpr int slot_bytes() const { return 2 * half_bytes(); }
  // Biases and their sums too, of each thread.
  constexpr int shared_bytes() const {
    return core_bytes() + slots * slot_bytes() +
           32 * kMiddleWarps * 16 * (bias_words() / 4 + hidden / 16);
  }
};

struct MiddleParams {
  const void* z1;      // (gamma / 8, tokens, middle) vectors
  const void* dz2;     // (phi / 8, tokens, middle) vectors
  void* dz1;           // (middle / 8, tokens, gamma) vectors
  void* z2;            // (middle / 8, tokens, phi) vectors
  const void* packed;  // MiddleShape::packed_vectors()
  float* db1;          // (splits, middle, hidden, gamma)
  float* da2;          // (splits, middle, hidden, phi)
  float* dbias1;       // (splits, middle, hidden)
  int32_t tokens;
  int32_t splits;
};

}  // namespace einforge::kernels::cuda::fused_ffn
