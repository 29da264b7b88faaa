#pragma once

#include "einforge/kernels/cuda/norm_range.h"
#include "einforge/kernels/cuda/vec8.cuh"

// Norms of rows of which each lane has a vector.
namespace einforge::kernels::cuda {

// Of the lanes of one row, to all of them.
template <int kLanes>
__device__ float sum_of_row(float value) {
#pragma unroll
  for (int hop = 1; hop < kLanes; hop *= 2) {
    value += __shfl_xor_sync(0xFFFFFFFFU, value, hop);
  }
  return value;
}

// x becomes n; returns the mean and 1 / sqrt(var + epsilon), which is 0 or NaN
// where sums leave the range of float32.
template <int kLanes>
__device__ float2 normalise_in_range(Vec8& x, float epsilon) {
  constexpr float kShare = 1.0F / (kLanes * 8);
  float sum = 0.0F;
  for (const float value : x.of) {
    sum += value;
  }
  const float mean = sum_of_row<kLanes>(sum) * kShare;
  float squares = 0.0F;
  for (float& value : x.of) {
    value -= mean;
    squares += value * value;
  }
  const float scale = rsqrtf(sum_of_row<kLanes>(squares) * kShare + epsilon);
  for (float& value : x.of) {
    value *= scale;
  }
  return {mean, scale};
}

// The same for all finite rows, by a whole warp: where sums leave the range, of
// a small multiple of the row, beside whose variance epsilon is nothing.
template <int kLanes>
__device__ float2 normalise(Vec8& x, float epsilon) {
  const Vec8 given = x;
  float2 moments = normalise_in_range<kLanes>(x, epsilon);
  const bool is_lost = !(moments.y > 0.0F);
  if (__any_sync(0xFFFFFFFFU, is_lost)) {
    Vec8 small = given;
    for (float& value : small.of) {
      value *= kSmallMultiple;
    }
    const float2 found = normalise_in_range<kLanes>(small, kSmallestEpsilon);
    if (is_lost) {
      x = small;
      moments = {found.x / kSmallMultiple, found.y * kSmallMultiple};
    }
  }
  return moments;
}

// The gradient of a row, g = gain dy of its n, in place:
// scale (g - mean(g) - n mean(g n)).
template <int kLanes>
__device__ void normalise_backward(Vec8& g, const Vec8& n, float scale) {
  constexpr float kShare = 1.0F / (kLanes * 8);
  float sum = 0.0F;
  float product = 0.0F;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    sum += g.of[i];
    product += g.of[i] * n.of[i];
  }
  const float mean = sum_of_row<kLanes>(sum) * kShare;
  const float along = sum_of_row<kLanes>(product) * kShare;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    g.of[i] = scale * (g.of[i] - mean - n.of[i] * along);
  }
}

}  // namespace einforge::kernels::cuda
