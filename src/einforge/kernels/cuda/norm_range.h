#pragma once

// Norms of rows whose squares leave the range of float32, which begin at 2^64:
// of such a row times kSmallMultiple the squares are above 2^-46 and the sum of
// 2^13 of them below 2^110.
namespace einforge::kernels::cuda {

inline constexpr float kSmallMultiple = 0x1p-80F;
// For a row of equal elements: 0, not 0 / 0.
inline constexpr float kSmallestEpsilon = 0x1p-126F;

}  // namespace einforge::kernels::cuda
